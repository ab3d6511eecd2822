/* See edgebig_shm.h, and docs/shared-memory.md for the layout. */

#define _GNU_SOURCE

#include "edgebig_shm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "edgebig_shm_layout.h"

typedef char needs_64_bits[sizeof(void *) == 8 ? 1 : -1];

#define SLICE_NS INT64_C(100000000) /* between two looks at whether the server lives */
#define STALE_NS INT64_C(2000000000)
#define LOOKS 64 /* at a word between two looks at the clock */
#define LOST_NS 50000 /* more than that between them, and somebody needs this core: who sleeps is woken up sooner */
#define WAITS 8       /* that are remembered */

struct edgebig_shm {
    int file;
    char *base;
    uint64_t size;
    /* Copies of the header, checked once: what stands in the memory is not trusted later. */
    uint64_t slots_offset, slot_stride, message_offset;
    uint32_t inputs, outputs, slots;
    uint64_t owner;
    int64_t spin_ns;
    int64_t waits[WAITS]; /* of the last requests, for their answers */
    uint32_t waited;
    uint64_t sequence;
    uint32_t before, last; /* slots that were taken */
    edgebig_shm_tensor *tensors;
    uint64_t *offsets;
    char *names;
};

#define LOAD(word) __atomic_load_n(word, __ATOMIC_SEQ_CST)
#define STORE(word, value) __atomic_store_n(word, value, __ATOMIC_SEQ_CST)

static int swap32(uint32_t *word, uint32_t expected, uint32_t desired)
{
    return __atomic_compare_exchange_n(word, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static int swap64(uint64_t *word, uint64_t expected, uint64_t desired)
{
    return __atomic_compare_exchange_n(word, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct edgebig_shm_header *header(const edgebig_shm *client)
{
    return (struct edgebig_shm_header *)(void *)client->base;
}

static struct edgebig_shm_request *request(const edgebig_shm_slot *slot)
{
    return (struct edgebig_shm_request *)(void *)slot->base;
}

static struct edgebig_shm_entry *entry(const edgebig_shm_slot *slot, uint32_t number)
{
    return (struct edgebig_shm_entry *)(void *)(slot->base + EDGEBIG_SHM_ENTRIES) + number;
}

static void wake(uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void sleep_while(uint32_t *word, uint32_t value, int64_t ns)
{
    struct timespec t;
    t.tv_sec = (time_t)(ns / 1000000000);
    t.tv_nsec = (long)(ns % 1000000000);
    (void)syscall(SYS_futex, word, FUTEX_WAIT, value, &t, NULL, 0);
}

/* Field 22 of /proc/PID/stat, when the process began; its name, field 2, may hold anything, also ')'. */
static uint64_t start_of_process(void)
{
    char text[1024];
    const char *at;
    unsigned long long ticks = 0;
    size_t length;
    FILE *file = fopen("/proc/self/stat", "re");
    if (file == NULL)
        return 0;
    length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    at = strrchr(text, ')');
    if (at == NULL || sscanf(at + 1, " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
                             &ticks) != 1)
        return 0;
    return ticks;
}

static uint64_t owner_word(uint32_t server_namespace)
{
    struct stat found;
    uint64_t pid = (uint32_t)getpid();
    uint32_t own = stat("/proc/self/ns/pid", &found) == 0 ? (uint32_t)found.st_ino : 0;
    if (own != server_namespace)
        pid |= EDGEBIG_SHM_FOREIGN;
    return (start_of_process() & 0xffffffffu) << 32 | pid;
}

/* The kernel drops the server's lock with it, however it ends. */
static int is_served(int file)
{
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    return fcntl(file, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

int edgebig_shm_check(const edgebig_shm *client)
{
    struct edgebig_shm_header *h = header(client);
    if (LOAD(&h->state) == EDGEBIG_SHM_STATE_GONE || !is_served(client->file))
        return EDGEBIG_SHM_GONE;
    return now_ns() - (int64_t)LOAD(&h->heartbeat_ns) > STALE_NS ? EDGEBIG_SHM_STALE : EDGEBIG_SHM_OK;
}

static int read_tensor(edgebig_shm *client, uint32_t number, const struct edgebig_shm_descriptor *from, uint64_t names,
                       uint64_t names_size)
{
    edgebig_shm_tensor *to = &client->tensors[number];
    struct edgebig_shm_descriptor d = *from;
    if (d.rank > EDGEBIG_SHM_MAX_RANK || d.name_offset < names || d.name_offset - names >= names_size ||
        d.name_size >= names_size - (d.name_offset - names) || d.offset % EDGEBIG_SHM_ALIGN != 0 ||
        d.offset > client->slot_stride || d.capacity > client->slot_stride - d.offset)
        return EDGEBIG_SHM_LAYOUT;
    to->name = client->names + (d.name_offset - names);
    client->names[d.name_offset - names + d.name_size] = 0;
    to->dtype = d.dtype;
    to->rank = d.rank;
    memcpy(to->dims, d.dims, sizeof to->dims);
    memcpy(to->largest, d.largest, sizeof to->largest);
    to->capacity = d.capacity;
    client->offsets[number] = d.offset;
    return EDGEBIG_SHM_OK;
}

static int read_header(edgebig_shm *client)
{
    struct edgebig_shm_header h = *header(client);
    uint64_t total = (uint64_t)h.input_count + h.output_count, size = client->size, table = h.header_size;
    uint64_t least = EDGEBIG_SHM_ENTRIES + total * sizeof(struct edgebig_shm_entry);
    uint32_t i;
    if (memcmp(h.magic, EDGEBIG_SHM_MAGIC, sizeof h.magic) != 0 || h.version != EDGEBIG_SHM_VERSION ||
        h.byte_order != EDGEBIG_SHM_BYTE_ORDER || h.segment_size != size || total > 65536 || h.slot_count == 0)
        return EDGEBIG_SHM_LAYOUT;
    if (table < sizeof h || table > size || h.tensor_stride != sizeof(struct edgebig_shm_descriptor) ||
        total * h.tensor_stride > size - table || h.names_offset > size || h.names_size > size - h.names_offset)
        return EDGEBIG_SHM_LAYOUT;
    if (h.slots_offset > size || h.slot_stride > size || h.slots_offset % EDGEBIG_SHM_ALIGN != 0 ||
        h.slot_stride % EDGEBIG_SHM_ALIGN != 0 || h.entries_offset != EDGEBIG_SHM_ENTRIES || h.slot_stride < least ||
        h.slot_count > (size - h.slots_offset) / h.slot_stride || h.message_offset < least ||
        h.message_offset > h.slot_stride || h.message_size != EDGEBIG_SHM_MESSAGE_SIZE ||
        h.message_size > h.slot_stride - h.message_offset)
        return EDGEBIG_SHM_LAYOUT;
    client->inputs = h.input_count;
    client->outputs = h.output_count;
    client->slots = h.slot_count;
    client->slots_offset = h.slots_offset;
    client->slot_stride = h.slot_stride;
    client->message_offset = h.message_offset;
    client->owner = owner_word(h.pid_namespace);
    client->tensors = calloc(total + 1, sizeof *client->tensors);
    client->offsets = calloc(total + 1, sizeof *client->offsets);
    client->names = calloc(1, h.names_size + 1);
    if (client->tensors == NULL || client->offsets == NULL || client->names == NULL)
        return EDGEBIG_SHM_SYSTEM;
    memcpy(client->names, client->base + h.names_offset, h.names_size);
    for (i = 0; i < total; i++) {
        const void *from = client->base + table + (uint64_t)i * h.tensor_stride;
        int rc = read_tensor(client, i, from, h.names_offset, h.names_size);
        if (rc != EDGEBIG_SHM_OK)
            return rc;
    }
    return EDGEBIG_SHM_OK;
}

/* A good name cannot lead out of the folder. */
static int path_of(char *path, size_t size, const char *name)
{
    size_t length = strlen(name);
    const char *letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    if (length == 0 || length > 200 || name[0] == '.' || name[0] == '-' || strspn(name, letters) != length)
        return EDGEBIG_SHM_ARGUMENT;
    return snprintf(path, size, "/dev/shm/edgebig.%s", name) < (int)size ? EDGEBIG_SHM_OK : EDGEBIG_SHM_ARGUMENT;
}

static int try_open(edgebig_shm *client, const char *path)
{
    struct stat found;
    void *base;
    client->file = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (client->file < 0)
        return errno == ENOENT ? EDGEBIG_SHM_NO_SERVER : EDGEBIG_SHM_SYSTEM;
    if (fstat(client->file, &found) != 0)
        return EDGEBIG_SHM_SYSTEM;
    client->size = (uint64_t)found.st_size;
    if (client->size < sizeof(struct edgebig_shm_header))
        return EDGEBIG_SHM_LAYOUT;
    base = mmap(NULL, client->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, client->file, 0);
    if (base == MAP_FAILED)
        return EDGEBIG_SHM_SYSTEM;
    client->base = base;
    return read_header(client);
}

static void let_go(edgebig_shm *client)
{
    if (client->base != NULL)
        munmap(client->base, client->size);
    if (client->file >= 0)
        close(client->file);
    free(client->tensors);
    free(client->offsets);
    free(client->names);
    memset(client, 0, sizeof *client);
    client->file = -1;
}

int edgebig_shm_open(edgebig_shm **made, const char *name, int timeout_ms)
{
    char path[256];
    struct timespec pause = {0, 10000000};
    int64_t end = now_ns() + (int64_t)timeout_ms * 1000000;
    edgebig_shm *client = NULL;
    int rc = made == NULL || name == NULL ? EDGEBIG_SHM_ARGUMENT : path_of(path, sizeof path, name);
    if (made != NULL)
        *made = NULL;
    if (rc == EDGEBIG_SHM_OK && (client = calloc(1, sizeof *client)) == NULL)
        rc = EDGEBIG_SHM_SYSTEM;
    if (rc != EDGEBIG_SHM_OK)
        return rc;
    client->file = -1;
    for (;;) {
        rc = try_open(client, path);
        if (rc == EDGEBIG_SHM_OK) {
            if (!is_served(client->file) || LOAD(&header(client)->state) == EDGEBIG_SHM_STATE_GONE)
                rc = EDGEBIG_SHM_GONE;
            else if (LOAD(&header(client)->state) == EDGEBIG_SHM_STATE_STARTING)
                rc = EDGEBIG_SHM_NO_SERVER;
            else
                break;
        }
        {
            int reason = errno;
            let_go(client);
            errno = reason;
        }
        if ((rc != EDGEBIG_SHM_NO_SERVER && rc != EDGEBIG_SHM_GONE) || now_ns() >= end) {
            free(client);
            return rc;
        }
        nanosleep(&pause, NULL);
    }
    client->spin_ns = 300000;
    client->last = 1;
    *made = client;
    return EDGEBIG_SHM_OK;
}

void edgebig_shm_close(edgebig_shm *client)
{
    if (client == NULL)
        return;
    let_go(client);
    free(client);
}

uint32_t edgebig_shm_input_count(const edgebig_shm *client)
{
    return client->inputs;
}

uint32_t edgebig_shm_output_count(const edgebig_shm *client)
{
    return client->outputs;
}

const edgebig_shm_tensor *edgebig_shm_input(const edgebig_shm *client, uint32_t number)
{
    return number < client->inputs ? &client->tensors[number] : NULL;
}

const edgebig_shm_tensor *edgebig_shm_output(const edgebig_shm *client, uint32_t number)
{
    return number < client->outputs ? &client->tensors[client->inputs + number] : NULL;
}

int edgebig_shm_find_input(const edgebig_shm *client, const char *name)
{
    uint32_t i;
    for (i = 0; i < client->inputs; i++)
        if (strcmp(client->tensors[i].name, name) == 0)
            return (int)i;
    return -1;
}

int edgebig_shm_find_output(const edgebig_shm *client, const char *name)
{
    uint32_t i;
    for (i = 0; i < client->outputs; i++)
        if (strcmp(client->tensors[client->inputs + i].name, name) == 0)
            return (int)i;
    return -1;
}

void edgebig_shm_set_spin(edgebig_shm *client, int microseconds)
{
    __atomic_store_n(&client->spin_ns, (int64_t)microseconds * 1000, __ATOMIC_RELAXED);
}

static uint64_t element_size(uint32_t dtype)
{
    static const unsigned char sizes[] = {0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8};
    return dtype < sizeof sizes ? sizes[dtype] : 0;
}

/* What a shape takes, or UINT64_MAX if that is no number of bytes. */
static uint64_t bytes_of(uint32_t dtype, uint32_t rank, const int64_t *dims)
{
    uint64_t bytes = element_size(dtype);
    uint32_t i;
    if (bytes == 0 || rank > EDGEBIG_SHM_MAX_RANK)
        return UINT64_MAX;
    for (i = 0; i < rank; i++) {
        if (dims[i] < 0 || (dims[i] > 0 && bytes > (UINT64_MAX >> 1) / (uint64_t)dims[i]))
            return UINT64_MAX;
        bytes *= (uint64_t)dims[i];
    }
    return bytes;
}

/* A client alternates between two slots, if they are free. The caches of the server's core still hold what it has read
 * and written in the one before, and to take those lines back makes a copy into it three times as slow. */
static int try_acquire(edgebig_shm *client, edgebig_shm_slot *slot)
{
    uint32_t i, n, first = __atomic_load_n(&client->before, __ATOMIC_RELAXED);
    for (i = 0; i < client->slots; i++) {
        n = (first + i) % client->slots;
        slot->base = client->base + client->slots_offset + n * client->slot_stride;
        if (LOAD(&request(slot)->owner) == 0 && swap64(&request(slot)->owner, 0, client->owner)) {
            STORE(&request(slot)->waiting, 0); /* an owner that died asleep had set it */
            STORE(&request(slot)->state, EDGEBIG_SHM_IDLE);
            first = __atomic_exchange_n(&client->last, n, __ATOMIC_RELAXED);
            __atomic_store_n(&client->before, first, __ATOMIC_RELAXED);
            return 1;
        }
    }
    slot->base = NULL;
    return 0;
}

int edgebig_shm_acquire(edgebig_shm *client, edgebig_shm_slot *slot, int timeout_ms)
{
    struct edgebig_shm_header *h = header(client);
    int64_t end = now_ns() + (int64_t)timeout_ms * 1000000, left;
    uint32_t released, i;
    int rc;
    memset(slot, 0, sizeof *slot);
    slot->client = client;
    for (;;) {
        released = LOAD(&h->released);
        if (LOAD(&h->state) != EDGEBIG_SHM_STATE_SERVING)
            return EDGEBIG_SHM_GONE;
        if (try_acquire(client, slot))
            break;
        rc = edgebig_shm_check(client);
        if (rc != EDGEBIG_SHM_OK)
            return rc;
        left = end - now_ns();
        if (left <= 0)
            return EDGEBIG_SHM_BUSY;
        (void)__atomic_add_fetch(&h->wanting, 1, __ATOMIC_SEQ_CST);
        sleep_while(&h->released, released, left < SLICE_NS ? left : SLICE_NS);
        (void)__atomic_sub_fetch(&h->wanting, 1, __ATOMIC_SEQ_CST);
    }
    for (i = 0; i < client->inputs; i++) {
        const edgebig_shm_tensor *t = &client->tensors[i];
        (void)edgebig_shm_set_input(slot, i, t->dtype, t->rank, t->largest, bytes_of(t->dtype, t->rank, t->largest));
    }
    return EDGEBIG_SHM_OK;
}

void *edgebig_shm_input_data(const edgebig_shm_slot *slot, uint32_t number)
{
    if (slot->base == NULL || number >= slot->client->inputs)
        return NULL;
    return slot->base + slot->client->offsets[number];
}

int edgebig_shm_set_input(edgebig_shm_slot *slot, uint32_t number, uint32_t dtype, uint32_t rank, const int64_t *dims,
                          uint64_t bytes)
{
    struct edgebig_shm_entry *e;
    uint32_t i;
    if (slot->base == NULL || slot->submitted || number >= slot->client->inputs || rank > EDGEBIG_SHM_MAX_RANK ||
        bytes > slot->client->tensors[number].capacity)
        return EDGEBIG_SHM_ARGUMENT;
    e = entry(slot, number);
    e->dtype = dtype;
    e->rank = rank;
    for (i = 0; i < EDGEBIG_SHM_MAX_RANK; i++)
        e->dims[i] = i < rank ? dims[i] : 0;
    e->bytes = bytes;
    return EDGEBIG_SHM_OK;
}

int edgebig_shm_submit(edgebig_shm_slot *slot)
{
    struct edgebig_shm_header *h;
    struct edgebig_shm_request *r;
    if (slot->base == NULL || slot->submitted)
        return EDGEBIG_SHM_ARGUMENT;
    h = header(slot->client);
    r = request(slot);
    slot->sequence = __atomic_add_fetch(&slot->client->sequence, 1, __ATOMIC_RELAXED);
    slot->submitted_ns = (uint64_t)now_ns();
    r->sequence = slot->sequence;
    r->submitted_ns = slot->submitted_ns;
    STORE(&r->state, EDGEBIG_SHM_REQUEST);
    (void)__atomic_add_fetch(&h->bell, 1, __ATOMIC_SEQ_CST);
    slot->submitted = 1;
    if (LOAD(&h->sleeping))
        wake(&h->bell);
    return EDGEBIG_SHM_OK;
}

static void spin_until(const uint32_t *state, int64_t end)
{
    int64_t now = now_ns(), last = now;
    int i;
    while (now < end && now - last <= LOST_NS) {
        for (i = 0; i < LOOKS; i++) {
            if (LOAD(state) == EDGEBIG_SHM_DONE)
                return;
            relax();
        }
        sched_yield(); /* the server may be waiting for this very core */
        last = now;
        now = now_ns();
    }
}

/* How long to look for an answer before sleeping: not at all where the median of the last eight took longer than the
 * limit, as looking in vain would only keep a core from whoever works on the answer. */
static int64_t look_for(const edgebig_shm *client)
{
    int64_t limit = __atomic_load_n(&client->spin_ns, __ATOMIC_RELAXED), longer = 0;
    int i;
    for (i = 0; i < WAITS; i++)
        longer += __atomic_load_n(&client->waits[i], __ATOMIC_RELAXED) > limit;
    return longer < WAITS / 2 ? limit : 0;
}

static void learn(edgebig_shm *client, int64_t wait)
{
    uint32_t number = __atomic_fetch_add(&client->waited, 1, __ATOMIC_RELAXED) % WAITS;
    __atomic_store_n(&client->waits[number], wait, __ATOMIC_RELAXED);
}

static int take_answer(edgebig_shm_slot *slot)
{
    struct edgebig_shm_request *r = request(slot);
    uint32_t status = r->status;
    learn(slot->client, now_ns() - (int64_t)slot->submitted_ns);
    slot->submitted = 0;
    if (r->answered != slot->sequence || status > EDGEBIG_SHM_STOPPED)
        return EDGEBIG_SHM_LAYOUT;
    return (int)status;
}

int edgebig_shm_wait(edgebig_shm_slot *slot, int timeout_ms)
{
    int64_t now = now_ns(), end = now + (int64_t)timeout_ms * 1000000, left, until;
    struct edgebig_shm_request *r = request(slot);
    uint32_t state;
    int rc;
    if (slot->base == NULL || !slot->submitted)
        return EDGEBIG_SHM_ARGUMENT;
    until = now + look_for(slot->client);
    if (LOAD(&r->state) != EDGEBIG_SHM_DONE)
        spin_until(&r->state, until < end ? until : end);
    while (LOAD(&r->state) != EDGEBIG_SHM_DONE) {
        left = end - now_ns();
        if (left <= 0)
            return EDGEBIG_SHM_TIMEOUT;
        STORE(&r->waiting, 1);
        state = LOAD(&r->state);
        if (state != EDGEBIG_SHM_DONE)
            sleep_while(&r->state, state, left < SLICE_NS ? left : SLICE_NS);
        STORE(&r->waiting, 0);
        if (LOAD(&r->state) != EDGEBIG_SHM_DONE && (rc = edgebig_shm_check(slot->client)) != EDGEBIG_SHM_OK)
            return rc;
    }
    return take_answer(slot);
}

const void *edgebig_shm_output_data(const edgebig_shm_slot *slot, uint32_t number, edgebig_shm_shape *shape)
{
    struct edgebig_shm_entry e;
    uint32_t index;
    if (slot->base == NULL || number >= slot->client->outputs)
        return NULL;
    index = slot->client->inputs + number;
    e = *entry(slot, index);
    if (e.dtype != slot->client->tensors[index].dtype || bytes_of(e.dtype, e.rank, e.dims) != e.bytes ||
        e.bytes > slot->client->tensors[index].capacity)
        return NULL;
    if (shape != NULL) {
        shape->dtype = e.dtype;
        shape->rank = e.rank;
        memcpy(shape->dims, e.dims, sizeof shape->dims);
        shape->bytes = e.bytes;
    }
    return slot->base + slot->client->offsets[index];
}

uint64_t edgebig_shm_run_ns(const edgebig_shm_slot *slot)
{
    return slot->base == NULL ? 0 : request(slot)->run_ns;
}

void edgebig_shm_message(const edgebig_shm_slot *slot, char *text, size_t size)
{
    size_t length = 0;
    if (text == NULL || size == 0)
        return;
    if (slot->base != NULL) {
        length = request(slot)->message_length;
        if (length > EDGEBIG_SHM_MESSAGE_SIZE)
            length = EDGEBIG_SHM_MESSAGE_SIZE;
        if (length > size - 1)
            length = size - 1;
        memcpy(text, slot->base + slot->client->message_offset, length);
    }
    text[length] = 0;
}

void edgebig_shm_release(edgebig_shm_slot *slot)
{
    struct edgebig_shm_header *h;
    struct edgebig_shm_request *r;
    if (slot->base == NULL)
        return;
    h = header(slot->client);
    r = request(slot);
    slot->base = NULL;
    slot->submitted = 0;
    /* the server frees what it is still at work on */
    if (!swap32(&r->state, EDGEBIG_SHM_REQUEST, EDGEBIG_SHM_IDLE) &&
        swap32(&r->state, EDGEBIG_SHM_RUNNING, EDGEBIG_SHM_DROPPED))
        return;
    STORE(&r->owner, 0);
    (void)__atomic_add_fetch(&h->released, 1, __ATOMIC_SEQ_CST);
    if (LOAD(&h->wanting))
        wake(&h->released);
}

static int copy_out(const edgebig_shm_slot *slot, edgebig_shm_array *outputs)
{
    uint32_t i;
    int rc = EDGEBIG_SHM_OK;
    for (i = 0; i < slot->client->outputs; i++) {
        edgebig_shm_shape shape;
        const void *data = edgebig_shm_output_data(slot, i, &shape);
        uint64_t room = outputs[i].bytes;
        if (data == NULL)
            return EDGEBIG_SHM_LAYOUT;
        outputs[i].dtype = shape.dtype;
        outputs[i].rank = shape.rank;
        memcpy(outputs[i].dims, shape.dims, sizeof shape.dims);
        outputs[i].bytes = shape.bytes;
        if (shape.bytes > room)
            rc = EDGEBIG_SHM_ARGUMENT;
        else if (shape.bytes > 0)
            memcpy(outputs[i].data, data, shape.bytes);
    }
    return rc;
}

int edgebig_shm_run(edgebig_shm *client, const edgebig_shm_array *inputs, edgebig_shm_array *outputs, int timeout_ms,
                    char *message, size_t message_size)
{
    edgebig_shm_slot slot;
    int64_t end = now_ns() + (int64_t)timeout_ms * 1000000, left;
    uint32_t i;
    int rc;
    if (message != NULL && message_size > 0)
        message[0] = 0;
    rc = edgebig_shm_acquire(client, &slot, timeout_ms);
    for (i = 0; rc == EDGEBIG_SHM_OK && i < client->inputs; i++) {
        const edgebig_shm_array *a = &inputs[i];
        rc = edgebig_shm_set_input(&slot, i, a->dtype, a->rank, a->dims, a->bytes);
        if (rc == EDGEBIG_SHM_OK && a->bytes > 0)
            memcpy(edgebig_shm_input_data(&slot, i), a->data, a->bytes);
    }
    if (rc == EDGEBIG_SHM_OK)
        rc = edgebig_shm_submit(&slot);
    if (rc == EDGEBIG_SHM_OK) {
        left = (end - now_ns()) / 1000000;
        rc = edgebig_shm_wait(&slot, left > 0 ? (int)left : 0);
        if (rc == EDGEBIG_SHM_OK)
            rc = copy_out(&slot, outputs);
        else if (rc > 0)
            edgebig_shm_message(&slot, message, message_size);
    }
    edgebig_shm_release(&slot);
    return rc;
}

const char *edgebig_shm_error(int code)
{
    switch (code) {
    case EDGEBIG_SHM_OK:
        return "done";
    case EDGEBIG_SHM_BAD_INPUT:
        return "the server refuses the input";
    case EDGEBIG_SHM_BACKEND_FAILED:
        return "the engine failed";
    case EDGEBIG_SHM_OUTPUT_TOO_LARGE:
        return "an output is larger than its place: serve it with larger --shapes";
    case EDGEBIG_SHM_STOPPED:
        return "the server was stopped";
    case EDGEBIG_SHM_NO_SERVER:
        return "no server has that name: start edgebig serve BUNDLE --shm NAME";
    case EDGEBIG_SHM_GONE:
        return "the server has ended: close, and open again when it is back";
    case EDGEBIG_SHM_STALE:
        return "the server stands still: look at its process";
    case EDGEBIG_SHM_TIMEOUT:
        return "no answer in time";
    case EDGEBIG_SHM_BUSY:
        return "no free slot in time: serve it with more --slots";
    case EDGEBIG_SHM_LAYOUT:
        return "not a segment of this version of edgebig, or a damaged one";
    case EDGEBIG_SHM_ARGUMENT:
        return "a name, number, shape or size does not fit";
    case EDGEBIG_SHM_SYSTEM:
        return "the operating system refuses it";
    default:
        return "unknown code";
    }
}
