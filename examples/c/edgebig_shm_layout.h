/* The memory between clients and 'edgebig serve', version 1, as docs/shared-memory.md describes it.
 *
 * edgebig_shm.c uses it; programs use edgebig_shm.h. */

#ifndef EDGEBIG_SHM_LAYOUT_H
#define EDGEBIG_SHM_LAYOUT_H

#include <stdint.h>

#define EDGEBIG_SHM_MAGIC "EBIGSHM"
#define EDGEBIG_SHM_VERSION 1u
#define EDGEBIG_SHM_BYTE_ORDER 0x01020304u
#define EDGEBIG_SHM_ALIGN 64u
#define EDGEBIG_SHM_ENTRIES 64u
#define EDGEBIG_SHM_MESSAGE_SIZE 512u
#define EDGEBIG_SHM_FOREIGN 0x80000000u
#define EDGEBIG_SHM_BINS 128u

enum { EDGEBIG_SHM_STATE_STARTING = 0, EDGEBIG_SHM_STATE_SERVING = 1, EDGEBIG_SHM_STATE_GONE = 2 };
enum {
    EDGEBIG_SHM_IDLE = 0,
    EDGEBIG_SHM_REQUEST = 1,
    EDGEBIG_SHM_RUNNING = 2,
    EDGEBIG_SHM_DONE = 3,
    EDGEBIG_SHM_DROPPED = 4
};

struct edgebig_shm_header {
    char magic[8];
    uint32_t version;
    uint32_t byte_order;
    uint64_t segment_size;
    uint64_t instance;
    uint32_t header_size;
    uint32_t tensor_stride;
    uint32_t input_count;
    uint32_t output_count;
    uint64_t slots_offset;
    uint64_t slot_stride;
    uint32_t slot_count;
    uint32_t entries_offset;
    uint32_t message_offset;
    uint32_t message_size;
    uint64_t names_offset;
    uint64_t names_size;
    uint32_t server_pid;
    uint32_t pid_namespace;
    uint64_t server_start;
    char reserved_0[80];

    uint32_t bell; /* 192 */
    uint32_t sleeping;
    char reserved_1[56];

    uint32_t released; /* 256 */
    uint32_t wanting;
    char reserved_2[56];

    uint32_t state; /* 320 */
    uint32_t reserved_3;
    uint64_t heartbeat_ns;
    uint64_t running_since_ns;
    char reserved_4[40];

    uint64_t calls; /* 384 */
    uint64_t refused;
    uint64_t failed;
    uint64_t reclaimed;
    char reserved_5[32];

    uint64_t service_times[EDGEBIG_SHM_BINS]; /* 448 */
    uint64_t round_trips[EDGEBIG_SHM_BINS];   /* 1472 */
};

struct edgebig_shm_descriptor {
    uint32_t name_offset;
    uint32_t name_size;
    uint32_t dtype;
    uint32_t rank;
    int64_t dims[8];
    int64_t largest[8];
    uint64_t offset;
    uint64_t capacity;
    uint64_t reserved[4];
};

struct edgebig_shm_request {
    uint64_t owner;
    uint32_t state;
    uint32_t waiting;
    uint64_t sequence;
    uint64_t answered;
    uint64_t submitted_ns;
    uint64_t run_ns;
    uint32_t status;
    uint32_t message_length;
    uint64_t reserved;
};

struct edgebig_shm_entry {
    uint32_t dtype;
    uint32_t rank;
    int64_t dims[8];
    uint64_t bytes;
};

#endif
