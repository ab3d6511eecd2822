/* Every refusal of the C client, against a server of 'y = x + 1' (float32 batch x 3, 8 rows at most) with two slots.
 *
 *     faults NAME      prints a line for each check that fails; exit code 0 if none does */

#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <string.h>

#include "edgebig_shm.h"

static int failures;

static void expect(int good, const char *what)
{
    if (!good) {
        printf("failed: %s\n", what);
        failures++;
    }
}

static int run_as(edgebig_shm *model, uint32_t dtype, uint32_t rank, int64_t a, int64_t b, uint64_t bytes, char *text)
{
    float x[24] = {0}, y[24];
    edgebig_shm_array in, out;
    memset(&in, 0, sizeof in);
    memset(&out, 0, sizeof out);
    in.data = x;
    in.bytes = bytes;
    in.dtype = dtype;
    in.rank = rank;
    in.dims[0] = a;
    in.dims[1] = b;
    out.data = y;
    out.bytes = sizeof y;
    return edgebig_shm_run(model, &in, &out, 10000, text, 512);
}

static void refusals(edgebig_shm *model)
{
    char text[512];
    expect(run_as(model, EDGEBIG_FLOAT32, 2, 2, 3, 24, text) == EDGEBIG_SHM_OK && text[0] == 0, "a good call");
    expect(run_as(model, EDGEBIG_INT32, 2, 2, 3, 24, text) == EDGEBIG_SHM_BAD_INPUT, "dtype");
    expect(strcmp(text, "input 'x' is x: float32 batchx3, found dtype int32") == 0, text);
    expect(run_as(model, 77, 2, 2, 3, 24, text) == EDGEBIG_SHM_BAD_INPUT, "unknown dtype");
    expect(strstr(text, "found dtype number 77") != NULL, text);
    expect(run_as(model, EDGEBIG_FLOAT32, 1, 3, 0, 12, text) == EDGEBIG_SHM_BAD_INPUT, "rank");
    expect(strstr(text, "has 2 axes") != NULL && strstr(text, "found 1") != NULL, text);
    expect(run_as(model, EDGEBIG_FLOAT32, 2, 9, 3, 96, text) == EDGEBIG_SHM_BAD_INPUT, "too many rows");
    expect(strstr(text, "may be 0 to 8 here, found 9") != NULL, text);
    expect(run_as(model, EDGEBIG_FLOAT32, 2, -1, 3, 12, text) == EDGEBIG_SHM_BAD_INPUT, "negative size");
    expect(run_as(model, EDGEBIG_FLOAT32, 2, INT64_MAX, 3, 12, text) == EDGEBIG_SHM_BAD_INPUT, "huge size");
    expect(run_as(model, EDGEBIG_FLOAT32, 2, 2, 2, 16, text) == EDGEBIG_SHM_BAD_INPUT, "wrong size");
    expect(run_as(model, EDGEBIG_FLOAT32, 2, 2, 3, 20, text) == EDGEBIG_SHM_BAD_INPUT, "bytes");
    expect(strstr(text, "has another size than the 20 bytes") != NULL, text);
    expect(run_as(model, EDGEBIG_FLOAT32, 2, 2, 3, 4096, text) == EDGEBIG_SHM_ARGUMENT, "beyond the place");
    expect(run_as(model, EDGEBIG_FLOAT32, 9, 2, 3, 24, text) == EDGEBIG_SHM_ARGUMENT, "rank 9");
    expect(run_as(model, EDGEBIG_FLOAT32, 2, 0, 3, 0, text) == EDGEBIG_SHM_OK, "no rows");
    expect(run_as(model, EDGEBIG_FLOAT32, 2, 8, 3, 96, text) == EDGEBIG_SHM_OK, "goes on");
}

static void slots(edgebig_shm *model)
{
    edgebig_shm_slot one, two, three;
    edgebig_shm_shape shape;
    const int64_t dims[2] = {1, 3};
    const float *y;
    expect(edgebig_shm_acquire(model, &one, 0) == EDGEBIG_SHM_OK, "the first slot");
    expect(edgebig_shm_acquire(model, &two, 0) == EDGEBIG_SHM_OK, "the second");
    expect(edgebig_shm_acquire(model, &three, 50) == EDGEBIG_SHM_BUSY, "no third");
    expect((size_t)edgebig_shm_input_data(&one, 0) % 64 == 0, "alignment");
    expect(edgebig_shm_input_data(&one, 1) == NULL, "no second input");
    expect(edgebig_shm_output_data(&one, 1, NULL) == NULL, "no second output");
    expect(edgebig_shm_wait(&one, 0) == EDGEBIG_SHM_ARGUMENT, "nothing submitted");
    expect(edgebig_shm_set_input(&two, 0, EDGEBIG_FLOAT32, 2, dims, 12) == EDGEBIG_SHM_OK, "shape");
    memset(edgebig_shm_input_data(&one, 0), 0, 96);
    memset(edgebig_shm_input_data(&two, 0), 0, 12);
    expect(edgebig_shm_submit(&one) == EDGEBIG_SHM_OK && edgebig_shm_submit(&two) == EDGEBIG_SHM_OK, "both under way");
    expect(edgebig_shm_submit(&one) == EDGEBIG_SHM_ARGUMENT, "submitted twice");
    expect(edgebig_shm_wait(&two, 10000) == EDGEBIG_SHM_OK && edgebig_shm_wait(&one, 10000) == EDGEBIG_SHM_OK, "both done");
    y = edgebig_shm_output_data(&two, 0, &shape);
    expect(y != NULL && y[2] == 1 && shape.rank == 2 && shape.dims[0] == 1 && shape.bytes == 12, "the small output");
    y = edgebig_shm_output_data(&one, 0, &shape);
    expect(y != NULL && y[23] == 1 && shape.dims[0] == 8, "the large output");
    expect(edgebig_shm_run_ns(&one) > 0, "time");
    edgebig_shm_release(&one);
    edgebig_shm_release(&one);
    edgebig_shm_release(&two);
    expect(edgebig_shm_output_data(&one, 0, NULL) == NULL, "released");
}

static void turns(edgebig_shm *model)
{
    edgebig_shm_slot slot;
    const void *places[4];
    int i;
    for (i = 0; i < 4; i++) {
        expect(edgebig_shm_acquire(model, &slot, 0) == EDGEBIG_SHM_OK, "a slot");
        places[i] = edgebig_shm_input_data(&slot, 0);
        edgebig_shm_release(&slot);
    }
    expect(places[0] != places[1] && places[0] == places[2] && places[1] == places[3], "two slots in turn");
}

static void names(edgebig_shm *model, const char *name)
{
    edgebig_shm *other;
    expect(strcmp(edgebig_shm_input(model, 0)->name, "x") == 0, "input's name");
    expect(edgebig_shm_input(model, 0)->dims[0] == -1 && edgebig_shm_input(model, 0)->largest[0] == 8, "dims");
    expect(edgebig_shm_find_input(model, "x") == 0 && edgebig_shm_find_output(model, "y") == 0, "found");
    expect(edgebig_shm_find_input(model, "y") == -1 && edgebig_shm_find_output(model, "x") == -1, "not found");
    expect(edgebig_shm_input(model, 1) == NULL && edgebig_shm_output(model, 1) == NULL, "counts");
    expect(edgebig_shm_open(&other, "no-such-server", 20) == EDGEBIG_SHM_NO_SERVER && other == NULL, "no server");
    expect(edgebig_shm_open(&other, "../escape", 0) == EDGEBIG_SHM_ARGUMENT, "a path");
    expect(edgebig_shm_open(&other, "", 0) == EDGEBIG_SHM_ARGUMENT, "empty name");
    expect(edgebig_shm_open(&other, name, 0) == EDGEBIG_SHM_OK, "a second client");
    edgebig_shm_close(other);
    edgebig_shm_close(NULL);
    expect(edgebig_shm_check(model) == EDGEBIG_SHM_OK, "lives");
}

int main(int argc, char **argv)
{
    edgebig_shm *model;
    if (argc != 2 || edgebig_shm_open(&model, argv[1], 5000) != EDGEBIG_SHM_OK)
        return 2;
    names(model, argv[1]);
    refusals(model);
    slots(model);
    turns(model);
    edgebig_shm_close(model);
    return failures != 0;
}
