/* Runs a served model on files of raw numbers, again and again, through restarts of the server.
 *
 *     edgebig serve detector.bundle --shm camera &
 *     ./run_model camera -n 100 -o answer frame.bin            one file for each input, in the model's order
 *     ./run_model camera -o answer ids.bin:1x16 mask.bin:1x16  with the shape, where axes are of any size
 *
 * Outputs go to PREFIX.0, PREFIX.1, ... as raw numbers; what they are is printed. */

#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "edgebig_shm.h"

#define MOST 16
#define TIMEOUT_MS 10000

static void *read_file(const char *path, uint64_t *bytes)
{
    FILE *file = fopen(path, "rb");
    long size;
    void *data = NULL;
    if (file == NULL)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0) {
        *bytes = (uint64_t)size;
        data = malloc((size_t)size + 1);
        if (data != NULL && fread(data, 1, (size_t)size, file) != (size_t)size) {
            free(data);
            data = NULL;
        }
    }
    fclose(file);
    return data;
}

/* "2x3" to dims; the rank, or -1. */
static int parse_shape(const char *text, int64_t *dims)
{
    int rank = 0;
    while (rank < EDGEBIG_SHM_MAX_RANK) {
        char *end;
        dims[rank++] = strtoll(text, &end, 10);
        if (end == text || (*end != 0 && *end != 'x'))
            return -1;
        if (*end == 0)
            return rank;
        text = end + 1;
    }
    return -1;
}

/* FILE or FILE:SHAPE as the model's input of that number. */
static int load_input(const edgebig_shm *model, uint32_t number, char *argument, edgebig_shm_array *array)
{
    const edgebig_shm_tensor *tensor = edgebig_shm_input(model, number);
    char *colon = strrchr(argument, ':');
    int rank = (int)tensor->rank;
    array->dtype = tensor->dtype;
    memcpy(array->dims, tensor->largest, sizeof array->dims);
    if (colon != NULL) {
        *colon = 0;
        rank = parse_shape(colon + 1, array->dims);
    }
    if (rank < 0) {
        fprintf(stderr, "run_model: a shape is written 2x3, found %s\n", colon + 1);
        return -1;
    }
    array->rank = (uint32_t)rank;
    array->data = read_file(argument, &array->bytes);
    if (array->data == NULL)
        fprintf(stderr, "run_model: cannot read %s: %s\n", argument, strerror(errno));
    return array->data == NULL ? -1 : 0;
}

static int write_output(const char *prefix, uint32_t number, const edgebig_shm_array *array)
{
    char path[4096];
    FILE *file;
    int good;
    if (snprintf(path, sizeof path, "%s.%" PRIu32, prefix, number) >= (int)sizeof path)
        return -1;
    file = fopen(path, "wb");
    if (file == NULL)
        return -1;
    good = fwrite(array->data, 1, array->bytes, file) == array->bytes;
    return fclose(file) == 0 && good ? 0 : -1;
}

static void describe(const edgebig_shm *model, uint32_t number, const edgebig_shm_array *array)
{
    uint32_t axis;
    printf("%s: dtype %" PRIu32 ", shape", edgebig_shm_output(model, number)->name, array->dtype);
    for (axis = 0; axis < array->rank; axis++)
        printf("%s%" PRId64, axis == 0 ? " " : "x", array->dims[axis]);
    printf("\n");
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Runs the model once; where the server has ended, waits for the next one. */
static int run_once(edgebig_shm **model, const char *name, const edgebig_shm_array *inputs, edgebig_shm_array *outputs)
{
    char message[512];
    uint32_t i;
    int rc;
    for (;;) {
        for (i = 0; i < edgebig_shm_output_count(*model); i++)
            outputs[i].bytes = edgebig_shm_output(*model, i)->capacity;
        rc = edgebig_shm_run(*model, inputs, outputs, TIMEOUT_MS, message, sizeof message);
        if (rc != EDGEBIG_SHM_GONE && rc != EDGEBIG_SHM_STALE && rc != EDGEBIG_SHM_STOPPED)
            break;
        fprintf(stderr, "run_model: %s\n", edgebig_shm_error(rc));
        edgebig_shm_close(*model);
        *model = NULL;
        rc = edgebig_shm_open(model, name, TIMEOUT_MS);
        if (rc != EDGEBIG_SHM_OK)
            break;
    }
    if (rc != EDGEBIG_SHM_OK)
        fprintf(stderr, "run_model: %s%s%s\n", edgebig_shm_error(rc), message[0] ? ": " : "", message);
    return rc;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL, *prefix = NULL;
    edgebig_shm_array inputs[MOST], outputs[MOST];
    edgebig_shm *model = NULL;
    uint32_t given = 0, i;
    long repeats = 1, n;
    int rc, arg;

    memset(inputs, 0, sizeof inputs);
    memset(outputs, 0, sizeof outputs);
    if (name == NULL) {
        fprintf(stderr, "usage: run_model NAME [-n REPEATS] [-o PREFIX] FILE[:SHAPE]...\n");
        return 2;
    }
    rc = edgebig_shm_open(&model, name, TIMEOUT_MS);
    if (rc != EDGEBIG_SHM_OK) {
        fprintf(stderr, "run_model: %s: %s\n", name, edgebig_shm_error(rc));
        return 1;
    }
    for (arg = 2; arg < argc && rc == 0; arg++) {
        if (strcmp(argv[arg], "-n") == 0 && arg + 1 < argc)
            repeats = strtol(argv[++arg], NULL, 10);
        else if (strcmp(argv[arg], "-o") == 0 && arg + 1 < argc)
            prefix = argv[++arg];
        else if (given < edgebig_shm_input_count(model) && given < MOST)
            rc = load_input(model, given, argv[arg], &inputs[given]), given++;
        else
            rc = -1, fprintf(stderr, "run_model: more files than inputs: %s\n", argv[arg]);
    }
    if (rc == 0 && (given != edgebig_shm_input_count(model) || edgebig_shm_output_count(model) > MOST)) {
        fprintf(stderr, "run_model: the model has %" PRIu32 " inputs\n", edgebig_shm_input_count(model));
        rc = -1;
    }
    for (i = 0; rc == 0 && i < edgebig_shm_output_count(model); i++)
        if ((outputs[i].data = malloc(edgebig_shm_output(model, i)->capacity + 1)) == NULL)
            rc = -1;
    for (n = 0; rc == 0 && n < repeats; n++) {
        int64_t start = now_ns();
        rc = run_once(&model, name, inputs, outputs);
        if (rc == 0 && n + 1 == repeats)
            printf("%ld runs, the last took %.1f us\n", repeats, (double)(now_ns() - start) / 1e3);
    }
    for (i = 0; rc == 0 && i < edgebig_shm_output_count(model); i++) {
        describe(model, i, &outputs[i]);
        if (prefix != NULL)
            rc = write_output(prefix, i, &outputs[i]);
    }
    for (i = 0; i < MOST; i++) {
        free(inputs[i].data);
        free(outputs[i].data);
    }
    edgebig_shm_close(model);
    return rc == 0 ? 0 : 1;
}
