/* Prints where the C structures have their fields, a line each. */

#include <stddef.h>
#include <stdio.h>

#include "edgebig_shm.h"
#include "edgebig_shm_layout.h"

#define AT(structure, field) printf("%s.%s %zu\n", #structure, #field, offsetof(struct edgebig_shm_##structure, field))
#define SIZE(structure) printf("%s %zu\n", #structure, sizeof(struct edgebig_shm_##structure))

int main(void)
{
    SIZE(header);
    SIZE(descriptor);
    SIZE(entry);
    AT(header, bell);
    AT(header, sleeping);
    AT(header, released);
    AT(header, wanting);
    AT(header, state);
    AT(header, heartbeat_ns);
    AT(header, running_since_ns);
    AT(header, calls);
    AT(header, refused);
    AT(header, failed);
    AT(header, reclaimed);
    AT(header, service_times);
    AT(header, round_trips);
    AT(header, server_start);
    AT(descriptor, offset);
    AT(descriptor, capacity);
    AT(request, owner);
    AT(request, state);
    AT(request, waiting);
    AT(request, sequence);
    AT(request, answered);
    AT(request, submitted_ns);
    AT(request, run_ns);
    AT(request, status);
    AT(request, message_length);
    AT(entry, dims);
    AT(entry, bytes);
    printf("version %u\n", EDGEBIG_SHM_VERSION);
    printf("message_size %u\n", EDGEBIG_SHM_MESSAGE_SIZE);
    printf("entries %u\n", EDGEBIG_SHM_ENTRIES);
    return 0;
}
