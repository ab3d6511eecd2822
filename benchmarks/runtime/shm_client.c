/* Times single calls of a served model with one float32 input, for shm.py.
 *
 *     shm_client NAME CALLS PERIOD_US copy|in-place SPIN_US     nanoseconds of each call, int64, on standard output
 *
 * copy: the frame lies in the caller's memory, is copied into a slot, and the outputs are copied out. in-place: the frame is
 * written where the server reads it before the clock starts, and the outputs are read where the server wrote them. */

#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "edgebig_shm.h"

#define WARM_UP 20
#define TIMEOUT_MS 10000
#define OUTPUTS 8

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wait_until(int64_t moment)
{
    struct timespec t;
    t.tv_sec = (time_t)(moment / 1000000000);
    t.tv_nsec = (long)(moment % 1000000000);
    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int64_t call_in_place(edgebig_shm *model, const float *frame, uint64_t bytes)
{
    edgebig_shm_slot slot;
    int64_t start, end;
    if (edgebig_shm_acquire(model, &slot, TIMEOUT_MS) != 0)
        return -1;
    memcpy(edgebig_shm_input_data(&slot, 0), frame, bytes);
    start = now_ns();
    if (edgebig_shm_submit(&slot) != 0 || edgebig_shm_wait(&slot, TIMEOUT_MS) != 0 ||
        edgebig_shm_output_data(&slot, 0, NULL) == NULL)
        return -1;
    end = now_ns();
    edgebig_shm_release(&slot);
    return end - start;
}

static int64_t call_with_copies(edgebig_shm *model, edgebig_shm_array *in, edgebig_shm_array *out)
{
    int64_t start = now_ns();
    uint32_t i;
    for (i = 0; i < edgebig_shm_output_count(model); i++)
        out[i].bytes = edgebig_shm_output(model, i)->capacity;
    return edgebig_shm_run(model, in, out, TIMEOUT_MS, NULL, 0) == 0 ? now_ns() - start : -1;
}

int main(int argc, char **argv)
{
    edgebig_shm *model;
    edgebig_shm_array in, out[OUTPUTS];
    const edgebig_shm_tensor *input;
    long calls, period, n;
    uint64_t i;
    int64_t *times, next;
    int copies;
    float *frame;

    if (argc != 6 || edgebig_shm_open(&model, argv[1], TIMEOUT_MS) != 0)
        return 2;
    calls = strtol(argv[2], NULL, 10);
    period = strtol(argv[3], NULL, 10);
    copies = strcmp(argv[4], "copy") == 0;
    edgebig_shm_set_spin(model, (int)strtol(argv[5], NULL, 10));
    input = edgebig_shm_input(model, 0);
    memset(&in, 0, sizeof in);
    memset(out, 0, sizeof out);
    frame = malloc(input->capacity);
    times = calloc((size_t)calls, sizeof *times);
    if (frame == NULL || times == NULL || edgebig_shm_output_count(model) > OUTPUTS)
        return 2;
    for (i = 0; i < edgebig_shm_output_count(model); i++)
        if ((out[i].data = malloc(edgebig_shm_output(model, (uint32_t)i)->capacity)) == NULL)
            return 2;
    for (i = 0; i < input->capacity / sizeof *frame; i++)
        frame[i] = (float)(i % 251) / 251;
    in.data = frame;
    in.bytes = input->capacity;
    in.dtype = input->dtype;
    in.rank = input->rank;
    memcpy(in.dims, input->largest, sizeof in.dims);
    next = now_ns();
    for (n = -WARM_UP; n < calls; n++) {
        int64_t took;
        if (period > 0)
            wait_until(next += period * 1000);
        took = copies ? call_with_copies(model, &in, out) : call_in_place(model, frame, in.bytes);
        if (took < 0)
            return 1;
        if (n >= 0)
            times[n] = took;
    }
    if (fwrite(times, sizeof *times, (size_t)calls, stdout) != (size_t)calls)
        return 1;
    free(frame);
    for (i = 0; i < OUTPUTS; i++)
        free(out[i].data);
    free(times);
    edgebig_shm_close(model);
    return 0;
}
