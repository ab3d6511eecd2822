/* What a server does for every request before and after the run. Between two frames of a camera the caches forget
 * Python's code, and to fetch it again takes longer than to run it. */

#include "_shared.h"

#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../examples/c/edgebig_shm_layout.h"

static struct edgebig_shm_request *request_at(Words *self, Py_ssize_t place)
{
    return at(self, place, sizeof(struct edgebig_shm_request));
}

/* The slots of a server: `count` of `stride` bytes from `first` on, looked at in turn from `next` on. */
struct slots {
    Py_ssize_t first, stride, count, next;
};

static int check_slots(Words *self, const struct slots *slots, Py_ssize_t asked)
{
    if (slots->count < 1 || slots->next < 0 || slots->stride < 1 || slots->count > self->view.len / slots->stride ||
        slots->first < (Py_ssize_t)sizeof(struct edgebig_shm_header) || asked < 0 ||
        asked > slots->stride - (Py_ssize_t)EDGEBIG_SHM_ENTRIES ||
        slots->first > self->view.len - slots->count * slots->stride) {
        PyErr_Format(PyExc_IndexError, "no %zd slots of %zd bytes at %zd", slots->count, slots->stride, slots->first);
        return 0;
    }
    return request_at(self, slots->first) != NULL &&
           request_at(self, slots->first + slots->stride * (slots->count - 1)) != NULL;
}

/* The number of a slot with a request, which is marked as running; -1 without one. */
static Py_ssize_t take(char *base, const struct slots *slots)
{
    for (Py_ssize_t i = 0; i < slots->count; i++) {
        Py_ssize_t number = (slots->next % slots->count + i) % slots->count;
        struct edgebig_shm_request *request = (void *)(base + slots->first + number * slots->stride);
        uint32_t found = EDGEBIG_SHM_REQUEST;
        if (__atomic_load_n(&request->state, __ATOMIC_SEQ_CST) == EDGEBIG_SHM_REQUEST &&
            __atomic_compare_exchange_n(&request->state, &found, EDGEBIG_SHM_RUNNING, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            return number;
    }
    return -1;
}

PyObject *words_next_request(Words *self, PyObject *args)
{
    struct slots slots;
    Py_ssize_t asked, number;
    long long timeout, spin;
    struct edgebig_shm_header *header;
    uint32_t bell;
    uint64_t idle = 0;
    int64_t start;
    if (!PyArg_ParseTuple(args, "nnnnnLL", &slots.first, &slots.stride, &slots.count, &slots.next, &asked, &timeout,
                          &spin) ||
        at(self, 0, 8) == NULL || !check_slots(self, &slots, asked))
        return NULL;
    header = self->view.buf;
    bell = __atomic_load_n(&header->bell, __ATOMIC_SEQ_CST);
    number = take(self->view.buf, &slots);
    if (number < 0) {
        if (!wait_unlocked(self, &header->bell, &header->sleeping, bell, 0, timeout, spin, &bell))
            return NULL;
        if (at(self, 0, 8) == NULL) /* released meanwhile */
            return NULL;
        number = take(self->view.buf, &slots);
    }
    if (number < 0)
        Py_RETURN_NONE;
    start = now_ns();
    (void)__atomic_compare_exchange_n(&header->running_since_ns, &idle, (uint64_t)start, 0, __ATOMIC_SEQ_CST,
                                      __ATOMIC_SEQ_CST);
    return Py_BuildValue("nLy#", number, (long long)start,
                         (char *)self->view.buf + slots.first + number * slots.stride + EDGEBIG_SHM_ENTRIES, asked);
}

/* The bin of a time: four in each doubling, from 256 ns on. */
static unsigned int bin_of(int64_t nanoseconds)
{
    uint64_t scaled = (uint64_t)(nanoseconds > 256 ? nanoseconds : 256) >> 6;
    unsigned int octave = 61 - (unsigned int)__builtin_clzll(scaled);
    unsigned int bin = (octave << 2) + (unsigned int)((scaled >> octave) & 3);
    return bin < EDGEBIG_SHM_BINS ? bin : EDGEBIG_SHM_BINS - 1;
}

PyObject *shared_bin_of(PyObject *Py_UNUSED(module), PyObject *args)
{
    long long nanoseconds;
    return PyArg_ParseTuple(args, "L", &nanoseconds) ? PyLong_FromUnsignedLong(bin_of(nanoseconds)) : NULL;
}

static void count_time(uint64_t *bins, int64_t nanoseconds)
{
    __atomic_add_fetch(&bins[bin_of(nanoseconds)], 1, __ATOMIC_RELAXED);
}

static void count_request(struct edgebig_shm_header *header, uint32_t status, int64_t start, int64_t submitted)
{
    int64_t end = now_ns();
    count_time(header->service_times, end - start);
    count_time(header->round_trips, end - (submitted > 0 && submitted < start ? submitted : start));
    __atomic_add_fetch(&header->calls, 1, __ATOMIC_RELAXED);
    if (status != 0)
        __atomic_add_fetch(status == 1 ? &header->refused : &header->failed, 1, __ATOMIC_RELAXED);
}

PyObject *words_answer(Words *self, PyObject *args)
{
    Py_ssize_t place, said, size;
    const char *entries;
    unsigned int status, length;
    long long start, ran;
    uint64_t since;
    struct edgebig_shm_header *header;
    struct edgebig_shm_request *request;
    uint32_t running = EDGEBIG_SHM_RUNNING;
    if (!PyArg_ParseTuple(args, "nIILLny#", &place, &status, &length, &start, &ran, &said, &entries, &size) ||
        (request = request_at(self, place)) == NULL)
        return NULL;
    if (place < (Py_ssize_t)sizeof *header || said < 0 || size > self->view.len - place ||
        said > self->view.len - place - size)
        return PyErr_Format(PyExc_IndexError, "no slot with %zd bytes at %zd in it at %zd", size, said, place);
    header = self->view.buf;
    count_request(header, status, start, (int64_t)request->submitted_ns);
    memcpy((char *)self->view.buf + place + said, entries, (size_t)size);
    request->run_ns = (uint64_t)ran;
    request->answered = request->sequence;
    request->message_length = length;
    request->status = status;
    since = (uint64_t)start;
    (void)__atomic_compare_exchange_n(&header->running_since_ns, &since, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (!__atomic_compare_exchange_n(&request->state, &running, EDGEBIG_SHM_DONE, 0, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST))
        Py_RETURN_FALSE;
    if (__atomic_load_n(&request->waiting, __ATOMIC_SEQ_CST))
        (void)syscall(SYS_futex, &request->state, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    Py_RETURN_TRUE;
}
