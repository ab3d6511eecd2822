/* Atomic words in memory that processes share, and waiting for them to change, without Python's lock.
 *
 * Python has neither a compare-and-swap nor barriers, and aarch64 reorders what x86 does not. All operations here are
 * sequentially consistent. docs/shared-memory.md says what the words mean. */

#include "_shared.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOOKS 64 /* at the word between two looks at the clock */
#define LOST_NS 50000 /* more than that between them, and somebody needs this core: who sleeps is woken up sooner */

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void *at(Words *self, Py_ssize_t offset, Py_ssize_t size)
{
    if (!self->held) {
        PyErr_SetString(PyExc_ValueError, "the memory was released");
        return NULL;
    }
    if (offset < 0 || offset > self->view.len - size || offset % size != 0) {
        PyErr_Format(PyExc_IndexError, "no word of %zd bytes at %zd of %zd", size, offset, self->view.len);
        return NULL;
    }
    return (char *)self->view.buf + offset;
}

static PyObject *words_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *memory;
    if (keywords != NULL && PyDict_GET_SIZE(keywords) != 0) {
        PyErr_SetString(PyExc_TypeError, "Words takes no keywords");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O", &memory))
        return NULL;
    Words *self = (Words *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (PyObject_GetBuffer(memory, &self->view, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->held = 1;
    if ((uintptr_t)self->view.buf % 8 != 0) {
        PyErr_SetString(PyExc_ValueError, "the memory is not aligned to 8 bytes");
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *words_release(Words *self, PyObject *Py_UNUSED(none))
{
    if (self->held)
        PyBuffer_Release(&self->view);
    self->held = 0;
    Py_RETURN_NONE;
}

static void words_dealloc(Words *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->held)
        PyBuffer_Release(&self->view);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *words_load32(Words *self, PyObject *args)
{
    Py_ssize_t offset;
    uint32_t *word;
    if (!PyArg_ParseTuple(args, "n", &offset) || (word = at(self, offset, 4)) == NULL)
        return NULL;
    return PyLong_FromUnsignedLong(__atomic_load_n(word, __ATOMIC_SEQ_CST));
}

static PyObject *words_load64(Words *self, PyObject *args)
{
    Py_ssize_t offset;
    uint64_t *word;
    if (!PyArg_ParseTuple(args, "n", &offset) || (word = at(self, offset, 8)) == NULL)
        return NULL;
    return PyLong_FromUnsignedLongLong(__atomic_load_n(word, __ATOMIC_SEQ_CST));
}

static PyObject *words_store32(Words *self, PyObject *args)
{
    Py_ssize_t offset;
    unsigned int value;
    uint32_t *word;
    if (!PyArg_ParseTuple(args, "nI", &offset, &value) || (word = at(self, offset, 4)) == NULL)
        return NULL;
    __atomic_store_n(word, (uint32_t)value, __ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyObject *words_store64(Words *self, PyObject *args)
{
    Py_ssize_t offset;
    unsigned long long value;
    uint64_t *word;
    if (!PyArg_ParseTuple(args, "nK", &offset, &value) || (word = at(self, offset, 8)) == NULL)
        return NULL;
    __atomic_store_n(word, (uint64_t)value, __ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyObject *words_swap32(Words *self, PyObject *args)
{
    Py_ssize_t offset;
    unsigned int expected, desired;
    uint32_t *word, found;
    if (!PyArg_ParseTuple(args, "nII", &offset, &expected, &desired) || (word = at(self, offset, 4)) == NULL)
        return NULL;
    found = (uint32_t)expected;
    return PyBool_FromLong(
        __atomic_compare_exchange_n(word, &found, (uint32_t)desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
}

static PyObject *words_swap64(Words *self, PyObject *args)
{
    Py_ssize_t offset;
    unsigned long long expected, desired;
    uint64_t *word, found;
    if (!PyArg_ParseTuple(args, "nKK", &offset, &expected, &desired) || (word = at(self, offset, 8)) == NULL)
        return NULL;
    found = (uint64_t)expected;
    return PyBool_FromLong(
        __atomic_compare_exchange_n(word, &found, (uint64_t)desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
}

static PyObject *words_add32(Words *self, PyObject *args)
{
    Py_ssize_t offset;
    int value;
    uint32_t *word;
    if (!PyArg_ParseTuple(args, "ni", &offset, &value) || (word = at(self, offset, 4)) == NULL)
        return NULL;
    return PyLong_FromUnsignedLong(__atomic_add_fetch(word, (uint32_t)value, __ATOMIC_SEQ_CST));
}

static PyObject *words_wake(Words *self, PyObject *args)
{
    Py_ssize_t offset;
    uint32_t *word;
    if (!PyArg_ParseTuple(args, "n", &offset) || (word = at(self, offset, 4)) == NULL)
        return NULL;
    return PyLong_FromLong(syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0));
}

/* Until the word is (`wanted`) or is no longer (!`wanted`) `value`: looks for `spin` ns, then sleeps, counted in
 * `sleepers`, up to `timeout` ns in all. A signal ends it too. */
static uint32_t wait_for(uint32_t *word, uint32_t *sleepers, uint32_t value, int wanted, int64_t timeout, int64_t spin)
{
    int64_t start = now_ns(), end = start + timeout, spun = start + (spin < timeout ? spin : timeout);
    int64_t now = start, last;
    uint32_t found = __atomic_load_n(word, __ATOMIC_SEQ_CST);
    while ((found == value) != wanted && now < spun) {
        for (int i = 0; i < LOOKS && (found == value) != wanted; i++) {
            RELAX();
            found = __atomic_load_n(word, __ATOMIC_SEQ_CST);
        }
        if ((found == value) != wanted)
            sched_yield(); /* whoever is to change the word may be waiting for this very core */
        last = now;
        now = now_ns();
        if (now - last > LOST_NS)
            break;
    }
    if ((found == value) == wanted || now >= end)
        return found;
    __atomic_add_fetch(sleepers, 1, __ATOMIC_SEQ_CST);
    while (((found = __atomic_load_n(word, __ATOMIC_SEQ_CST)) == value) != wanted && (now = now_ns()) < end) {
        struct timespec left = {(time_t)((end - now) / 1000000000), (long)((end - now) % 1000000000)};
        if (syscall(SYS_futex, word, FUTEX_WAIT, found, &left, NULL, 0) < 0 && errno == EINTR)
            break;
    }
    __atomic_sub_fetch(sleepers, 1, __ATOMIC_SEQ_CST);
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

int wait_unlocked(Words *self, uint32_t *word, uint32_t *sleepers, uint32_t value, int wanted, long long timeout,
                  long long spin, uint32_t *found)
{
    if (timeout < 0 || timeout > 3600000000000 || spin < 0) {
        PyErr_SetString(PyExc_ValueError, "waits are of 0 to 3600 s");
        return 0;
    }
    Py_buffer held; /* keeps the memory while another thread may release this object */
    if (PyObject_GetBuffer(self->view.obj, &held, PyBUF_WRITABLE) < 0)
        return 0;
    Py_BEGIN_ALLOW_THREADS
    *found = wait_for(word, sleepers, value, wanted, (int64_t)timeout, (int64_t)spin);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&held);
    return PyErr_CheckSignals() == 0;
}

static PyObject *wait_with(Words *self, PyObject *args, int wanted)
{
    Py_ssize_t offset, count_offset;
    unsigned int value;
    long long timeout, spin;
    uint32_t *word, *sleepers, found;
    if (!PyArg_ParseTuple(args, "nnILL", &offset, &count_offset, &value, &timeout, &spin) ||
        (word = at(self, offset, 4)) == NULL || (sleepers = at(self, count_offset, 4)) == NULL ||
        !wait_unlocked(self, word, sleepers, (uint32_t)value, wanted, timeout, spin, &found))
        return NULL;
    return PyLong_FromUnsignedLong(found);
}

static PyObject *words_wait_while(Words *self, PyObject *args)
{
    return wait_with(self, args, 0);
}

static PyObject *words_wait_until(Words *self, PyObject *args)
{
    return wait_with(self, args, 1);
}

static PyMethodDef methods[] = {
    {"release", (PyCFunction)words_release, METH_NOARGS, "Lets the memory go."},
    {"load32", (PyCFunction)words_load32, METH_VARARGS, "load32(offset): the word's value."},
    {"load64", (PyCFunction)words_load64, METH_VARARGS, "load64(offset): the word's value."},
    {"store32", (PyCFunction)words_store32, METH_VARARGS, "store32(offset, value)"},
    {"store64", (PyCFunction)words_store64, METH_VARARGS, "store64(offset, value)"},
    {"swap32", (PyCFunction)words_swap32, METH_VARARGS, "swap32(offset, expected, desired): whether it was swapped."},
    {"swap64", (PyCFunction)words_swap64, METH_VARARGS, "swap64(offset, expected, desired): whether it was swapped."},
    {"add32", (PyCFunction)words_add32, METH_VARARGS, "add32(offset, value): the sum."},
    {"wake", (PyCFunction)words_wake, METH_VARARGS, "wake(offset): how many were woken."},
    {"wait_while", (PyCFunction)words_wait_while, METH_VARARGS, "wait_while(offset, sleepers, value, timeout_ns, spin_ns)"},
    {"wait_until", (PyCFunction)words_wait_until, METH_VARARGS, "wait_until(offset, sleepers, value, timeout_ns, spin_ns)"},
    {"next_request", (PyCFunction)words_next_request, METH_VARARGS,
     "next_request(first, stride, count, next, asked, timeout_ns, spin_ns)"},
    {"answer", (PyCFunction)words_answer, METH_VARARGS,
     "answer(place, status, message_length, start_ns, ran_ns, said, entries)"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, words_new},
    {Py_tp_dealloc, words_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_doc, "Words of 32 and 64 bits in shared memory."},
    {0, NULL},
};

static PyType_Spec spec = {"edgebig.serve._shared.Words", sizeof(Words), 0, Py_TPFLAGS_DEFAULT, slots};

static PyMethodDef functions[] = {
    {"bin_of", (PyCFunction)shared_bin_of, METH_VARARGS, "bin_of(nanoseconds): the bin of a histogram of times."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_shared", "Atomic words in shared memory.", -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__shared(void)
{
    PyObject *made = PyModule_Create(&module);
    PyObject *type = made == NULL ? NULL : PyType_FromSpec(&spec);
    if (type == NULL || PyModule_AddObject(made, "Words", type) < 0) {
        Py_XDECREF(type);
        Py_XDECREF(made);
        return NULL;
    }
    return made;
}
