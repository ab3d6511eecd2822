/* Threads that share one client of 'y = x + 1' (float32 batch x 3) and check every answer.
 *
 *     stress NAME THREADS CALLS [hold]     hold: take a slot, send a request, say so and never return */

#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "edgebig_shm.h"

static edgebig_shm *model;
static long calls;

static int call(float first, int64_t rows)
{
    float x[24], y[24];
    edgebig_shm_array in = {x, 0, EDGEBIG_FLOAT32, 2, {0, 3}}, out = {y, sizeof y, 0, 0, {0}};
    int64_t i;
    in.dims[0] = rows;
    in.bytes = (uint64_t)rows * 3 * sizeof *x;
    for (i = 0; i < rows * 3; i++)
        x[i] = first + (float)i;
    if (edgebig_shm_run(model, &in, &out, 60000, NULL, 0) != EDGEBIG_SHM_OK)
        return -1;
    if (out.bytes != in.bytes || out.rank != 2 || out.dims[0] != rows || out.dims[1] != 3)
        return -1;
    for (i = 0; i < rows * 3; i++)
        if (y[i] != first + (float)i + 1)
            return -1;
    return 0;
}

static void *work(void *number)
{
    long n, failures = 0;
    for (n = 0; n < calls; n++)
        failures += call((float)(*(int *)number * 1000 + n % 1000), 1 + n % 8) != 0;
    return failures == 0 ? number : NULL;
}

static int hold(void)
{
    edgebig_shm_slot slot;
    if (edgebig_shm_acquire(model, &slot, 1000) != 0 || edgebig_shm_submit(&slot) != 0)
        return 1;
    printf("holding\n");
    fflush(stdout);
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    pthread_t threads[16];
    int numbers[16], count, i, bad = 0;
    int rc = argc < 4 ? EDGEBIG_SHM_ARGUMENT : edgebig_shm_open(&model, argv[1], 5000);
    if (rc != EDGEBIG_SHM_OK) {
        fprintf(stderr, "%s\n", edgebig_shm_error(rc));
        return 2;
    }
    if (argc == 5)
        return hold();
    count = atoi(argv[2]);
    calls = atol(argv[3]);
    for (i = 0; i < count; i++) {
        numbers[i] = i;
        if (pthread_create(&threads[i], NULL, work, &numbers[i]) != 0)
            return 2;
    }
    for (i = 0; i < count; i++) {
        void *result;
        bad += pthread_join(threads[i], &result) != 0 || result == NULL;
    }
    edgebig_shm_close(model);
    printf("%d of %d threads failed\n", bad, count);
    return bad != 0;
}
