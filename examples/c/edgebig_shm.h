/* A client for 'edgebig serve BUNDLE --shm NAME': runs a model that another process of this machine serves.
 *
 * C99, 64-bit Linux, gcc or clang, no library. docs/shared-memory.md describes the memory that both share.
 *
 *     edgebig_shm *model;
 *     int rc = edgebig_shm_open(&model, "camera", 1000);
 *     edgebig_shm_array in = {frame, sizeof frame, EDGEBIG_UINT8, 4, {1, 3, 480, 640}};
 *     edgebig_shm_array out = {scores, sizeof scores, EDGEBIG_FLOAT32, 0, {0}};
 *     rc = edgebig_shm_run(model, &in, &out, 100, NULL, 0);
 *
 * copies the frame in and the scores out. To write the frame where the server reads it, without a copy:
 *
 *     edgebig_shm_slot slot;
 *     rc = edgebig_shm_acquire(model, &slot, 100);
 *     grab_frame_into(edgebig_shm_input_data(&slot, 0));
 *     rc = edgebig_shm_submit(&slot);
 *     rc = edgebig_shm_wait(&slot, 100);
 *     const float *scores = edgebig_shm_output_data(&slot, 0, &shape);
 *     edgebig_shm_release(&slot);
 *
 * Several threads may use one client, each slot belongs to one of them at a time. After a fork, open again in the child.
 * Every function returns EDGEBIG_SHM_OK or another of the codes below. */

#ifndef EDGEBIG_SHM_H
#define EDGEBIG_SHM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGEBIG_SHM_MAX_RANK 8

/* Numbers of ONNX's TensorProto.DataType. */
enum {
    EDGEBIG_FLOAT32 = 1,
    EDGEBIG_UINT8 = 2,
    EDGEBIG_INT8 = 3,
    EDGEBIG_UINT16 = 4,
    EDGEBIG_INT16 = 5,
    EDGEBIG_INT32 = 6,
    EDGEBIG_INT64 = 7,
    EDGEBIG_BOOL = 9,
    EDGEBIG_FLOAT16 = 10,
    EDGEBIG_FLOAT64 = 11,
    EDGEBIG_UINT32 = 12,
    EDGEBIG_UINT64 = 13
};

enum {
    EDGEBIG_SHM_OK = 0,
    /* The server's answers; edgebig_shm_message() has its words. The slot can be used again. */
    EDGEBIG_SHM_BAD_INPUT = 1,
    EDGEBIG_SHM_BACKEND_FAILED = 2,
    EDGEBIG_SHM_OUTPUT_TOO_LARGE = 3,
    EDGEBIG_SHM_STOPPED = 4,
    /* Close and open again, when the server is back. */
    EDGEBIG_SHM_NO_SERVER = -1, /* no segment of that name */
    EDGEBIG_SHM_GONE = -2,      /* the server has ended */
    EDGEBIG_SHM_STALE = -3,     /* it lives, but has stood still for two seconds */
    /* Try again. */
    EDGEBIG_SHM_TIMEOUT = -4, /* no answer in time: wait again, or release the slot */
    EDGEBIG_SHM_BUSY = -5,    /* no free slot in time */
    /* Mend the program, or the installation. */
    EDGEBIG_SHM_LAYOUT = -6,   /* not a segment of edgebig, another version of it, or damaged */
    EDGEBIG_SHM_ARGUMENT = -7, /* a name, number, shape or size that does not fit */
    EDGEBIG_SHM_SYSTEM = -8    /* the operating system refuses; errno says why */
};

typedef struct edgebig_shm edgebig_shm;

/* What an input or output may be. `dims` is -1 on axes of any size, which `largest` bounds. */
typedef struct {
    const char *name;
    uint32_t dtype;
    uint32_t rank;
    int64_t dims[EDGEBIG_SHM_MAX_RANK];
    int64_t largest[EDGEBIG_SHM_MAX_RANK];
    uint64_t capacity; /* bytes */
} edgebig_shm_tensor;

/* A tensor in the caller's memory: packed, the last axis fastest. */
typedef struct {
    void *data;
    uint64_t bytes; /* of an input, what the shape takes; of an output, the room at `data` */
    uint32_t dtype;
    uint32_t rank;
    int64_t dims[EDGEBIG_SHM_MAX_RANK];
} edgebig_shm_array;

/* Shape and type of an output in a slot. */
typedef struct {
    uint32_t dtype;
    uint32_t rank;
    int64_t dims[EDGEBIG_SHM_MAX_RANK];
    uint64_t bytes;
} edgebig_shm_shape;

/* A slot that the caller has. Its fields are the client's own. */
typedef struct {
    edgebig_shm *client;
    char *base;
    uint64_t sequence;
    uint64_t submitted_ns;
    int submitted;
} edgebig_shm_slot;

/* Connects, waiting up to `timeout_ms` for a server that is not there yet. */
int edgebig_shm_open(edgebig_shm **client, const char *name, int timeout_ms);
void edgebig_shm_close(edgebig_shm *client);

uint32_t edgebig_shm_input_count(const edgebig_shm *client);
uint32_t edgebig_shm_output_count(const edgebig_shm *client);
/* NULL where there is none of that number. */
const edgebig_shm_tensor *edgebig_shm_input(const edgebig_shm *client, uint32_t number);
const edgebig_shm_tensor *edgebig_shm_output(const edgebig_shm *client, uint32_t number);
/* Its number, or -1. */
int edgebig_shm_find_input(const edgebig_shm *client, const char *name);
int edgebig_shm_find_output(const edgebig_shm *client, const char *name);
/* Microseconds for which edgebig_shm_wait looks for the answer before it sleeps, where answers have lately come so
 * fast; 300 at first, 0 for never. */
void edgebig_shm_set_spin(edgebig_shm *client, int microseconds);

/* Whether the server lives: OK, GONE or STALE. */
int edgebig_shm_check(const edgebig_shm *client);

/* Takes a free slot. Its inputs have their largest shapes. */
int edgebig_shm_acquire(edgebig_shm *client, edgebig_shm_slot *slot, int timeout_ms);
/* Where to write an input; aligned to 64 bytes. NULL where there is none of that number. */
void *edgebig_shm_input_data(const edgebig_shm_slot *slot, uint32_t number);
/* Type and shape of an input for this call; `bytes` is what they take. The server checks them. */
int edgebig_shm_set_input(edgebig_shm_slot *slot, uint32_t number, uint32_t dtype, uint32_t rank, const int64_t *dims,
                          uint64_t bytes);
int edgebig_shm_submit(edgebig_shm_slot *slot);
/* Until the answer is there. After TIMEOUT it may be called again. */
int edgebig_shm_wait(edgebig_shm_slot *slot, int timeout_ms);
/* An output, valid until the slot is submitted again or released; NULL where none of that number fits. `shape` may be
 * NULL. */
const void *edgebig_shm_output_data(const edgebig_shm_slot *slot, uint32_t number, edgebig_shm_shape *shape);
/* Nanoseconds that the model itself took for the last answer. */
uint64_t edgebig_shm_run_ns(const edgebig_shm_slot *slot);
/* What the server said of a request that it refused; copied to `text`, always ended by a 0. */
void edgebig_shm_message(const edgebig_shm_slot *slot, char *text, size_t size);
/* Gives the slot back, whatever its state; a request that runs is dropped. Releasing twice is fine. */
void edgebig_shm_release(edgebig_shm_slot *slot);

/* All of it: one array for each input and output, in the model's order. Inputs are copied in, outputs out, and the
 * outputs' dtype, rank, dims and bytes filled in; an output without room is ARGUMENT, with the bytes that it needs. The
 * server's words, if it refuses, go to `message`, which may be NULL. */
int edgebig_shm_run(edgebig_shm *client, const edgebig_shm_array *inputs, edgebig_shm_array *outputs, int timeout_ms,
                    char *message, size_t message_size);

/* One line for a return code. */
const char *edgebig_shm_error(int code);

#ifdef __cplusplus
}
#endif

#endif
