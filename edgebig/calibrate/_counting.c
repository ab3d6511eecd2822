/* Counts float32 values in the bins of a histogram, without Python's lock.
 *
 * The same counts as the NumPy code in counting.py, which stands in where this is not built. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define HALF 4096 /* as in counting.py */
#define BINS (2 * HALF)
#define BLOCK 512  /* values whose bins are computed at once, in vectors */
#define TABLES 4   /* equal neighbours, as zeros after a Relu, would wait for each other's store to one table */
#define FLUSH ((Py_ssize_t)1 << 31) /* values that one uint32 can count; a multiple of BLOCK */

/* Two versions, the right one chosen when the module is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define VECTORS
#endif

VECTORS static void bins_of(const float *values, int size, float scale, int32_t *bins)
{
    for (int i = 0; i < size; i++) {
        float scaled = values[i] * scale;
        int32_t bin = (int32_t)scaled;
        /* the floor; the product of a tiny negative value may vanish, and its bin is the one below zero */
        bin -= ((float)bin > scaled) | ((scaled == 0) & (values[i] < 0));
        /* no value may write elsewhere, whatever the caller promised */
        bins[i] = (bin + HALF) & (BINS - 1);
    }
}

static void fill(const float *values, Py_ssize_t size, float scale, uint32_t (*tables)[BINS])
{
    int32_t bins[BLOCK];
    for (Py_ssize_t start = 0; start < size; start += BLOCK) {
        int length = size - start < BLOCK ? (int)(size - start) : BLOCK;
        int i = 0;
        bins_of(values + start, length, scale, bins);
        for (; i + TABLES <= length; i += TABLES)
            for (int t = 0; t < TABLES; t++)
                tables[t][bins[i + t]]++;
        for (; i < length; i++)
            tables[0][bins[i]]++;
    }
}

static void count_all(const float *values, Py_ssize_t size, float scale, int64_t *counts)
{
    uint32_t tables[TABLES][BINS];
    for (Py_ssize_t start = 0; start < size; start += FLUSH) {
        memset(tables, 0, sizeof tables);
        fill(values + start, size - start < FLUSH ? size - start : FLUSH, scale, tables);
        for (int t = 0; t < TABLES; t++)
            for (int k = 0; k < BINS; k++)
                counts[k] += tables[t][k];
    }
}

/* A C-contiguous buffer whose element type is one of `formats`; else 0, with an exception set. */
static int get_buffer(PyObject *object, int flags, const char *formats, const char *refusal, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | flags) != 0)
        return 0;
    if (view->format != NULL && strlen(view->format) == 1 && strchr(formats, view->format[0]) != NULL)
        return 1;
    PyBuffer_Release(view);
    PyErr_SetString(PyExc_TypeError, refusal);
    return 0;
}

static PyObject *count(PyObject *module, PyObject *arguments)
{
    PyObject *array, *target;
    float scale;
    Py_buffer values, counts;
    if (!PyArg_ParseTuple(arguments, "OfO:count", &array, &scale, &target))
        return NULL;
    if (!get_buffer(array, 0, "f", "values: not float32", &values))
        return NULL;
    if (!get_buffer(target, PyBUF_WRITABLE, "lq", "counts: not int64", &counts)) {
        PyBuffer_Release(&values);
        return NULL;
    }
    int fits = counts.len == BINS * (Py_ssize_t)sizeof(int64_t);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        count_all(values.buf, values.len / (Py_ssize_t)sizeof(float), scale, counts.buf);
        Py_END_ALLOW_THREADS
    } else
        PyErr_Format(PyExc_ValueError, "counts: not int64 [%d]", BINS);
    PyBuffer_Release(&values);
    PyBuffer_Release(&counts);
    if (!fits)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"count", count, METH_VARARGS, "count(values, scale, counts): adds to counts[floor(value * scale) + HALF]."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_counting", "Counts float32 values.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__counting(void)
{
    return PyModule_Create(&definition);
}
