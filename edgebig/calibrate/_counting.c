/* Extremes of float32 values and counts of them in the bins of a histogram, without Python's lock.
 *
 * The same results as the NumPy code in counting.py, which stands in where this is not built. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <string.h>

#define HALF 4096 /* as in counting.py */
#define BINS (2 * HALF)
#define BLOCK 512  /* values whose bins are computed at once, in vectors */
#define TABLES 4   /* equal neighbours, as zeros after a Relu, would wait for each other's store to one table */
#define FLUSH ((Py_ssize_t)1 << 31) /* values that one uint32 can count; a multiple of BLOCK */
#define FEW (1 << 14) /* values below which clearing and adding up the tables would cost more than they save */

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

/* Extremes as keys: the whole numbers that order as the floats do, so that their least and greatest are one
 * instruction for a vector. A NaN's key lies outside of the infinities' keys. */
typedef struct {
    int32_t low, high;
} Keys;

#define INFINITE 0x7f800000

static int32_t key_of(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

static float value_of(int32_t key)
{
    int32_t bits = key ^ ((key >> 31) & 0x7fffffff);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int has_nan(Keys found)
{
    return found.high > INFINITE || found.low < key_of(-INFINITY);
}

VECTORS static Keys widened(const float *values, int size, Keys found)
{
    int32_t low = found.low, high = found.high;
    for (int i = 0; i < size; i++) {
        int32_t key = key_of(values[i]);
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    return (Keys){low, high};
}

#define NONE ((Keys){INFINITE, ~INFINITE}) /* inf and -inf */

static int length_at(Py_ssize_t start, Py_ssize_t size)
{
    return size - start < BLOCK ? (int)(size - start) : BLOCK;
}

static Keys extremes_of(const float *values, Py_ssize_t size)
{
    Keys found = NONE;
    for (Py_ssize_t start = 0; start < size; start += BLOCK)
        found = widened(values + start, length_at(start, size), found);
    return found;
}

/* Looks at each block before it is counted, while it is in the cache anyway. Gives up, with counts of what was before,
 * at the first block that holds a value without a bin. */
static int fill(const float *values, Py_ssize_t size, float scale, uint32_t (*tables)[BINS], int64_t *counts,
                Keys *found)
{
    int32_t bins[BLOCK];
    for (Py_ssize_t start = 0; start < size; start += BLOCK) {
        int length = length_at(start, size);
        int i = 0;
        *found = widened(values + start, length, *found);
        if (!(value_of(found->low) * scale >= -HALF && value_of(found->high) * scale < HALF))
            return 0; /* a NaN compares as false */
        bins_of(values + start, length, scale, bins);
        if (tables == NULL) {
            for (; i < length; i++)
                counts[bins[i]]++;
            continue;
        }
        for (; i + TABLES <= length; i += TABLES)
            for (int t = 0; t < TABLES; t++)
                tables[t][bins[i + t]]++;
        for (; i < length; i++)
            tables[0][bins[i]]++;
    }
    return 1;
}

/* Whether all values have bins. If not, `counts` are of no use, but `found` is of all values. */
static int scan_all(const float *values, Py_ssize_t size, float scale, int64_t *counts, Keys *found)
{
    uint32_t tables[TABLES][BINS];
    int fits = 1;
    if (size < FEW)
        fits = fill(values, size, scale, NULL, counts, found);
    else
        for (Py_ssize_t start = 0; fits && start < size; start += FLUSH) {
            memset(tables, 0, sizeof tables);
            fits = fill(values + start, size - start < FLUSH ? size - start : FLUSH, scale, tables, counts, found);
            for (int t = 0; t < TABLES; t++)
                for (int k = 0; k < BINS; k++)
                    counts[k] += tables[t][k];
        }
    if (!fits)
        *found = extremes_of(values, size);
    return fits;
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

/* (smallest, largest), or NaN twice where a value is one. */
static PyObject *as_tuple(Keys found, int fits)
{
    double low = has_nan(found) ? (double)NAN : value_of(found.low);
    double high = has_nan(found) ? (double)NAN : value_of(found.high);
    return fits < 0 ? Py_BuildValue("dd", low, high) : Py_BuildValue("ddO", low, high, fits ? Py_True : Py_False);
}

static PyObject *extremes(PyObject *module, PyObject *array)
{
    Py_buffer values;
    Keys found;
    if (!get_buffer(array, 0, "f", "values: not float32", &values))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    found = extremes_of(values.buf, values.len / (Py_ssize_t)sizeof(float));
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&values);
    return as_tuple(found, -1);
}

static PyObject *scan(PyObject *module, PyObject *arguments)
{
    PyObject *array, *target;
    float scale;
    Py_buffer values, counts;
    Keys found = NONE;
    int fits = 0;
    if (!PyArg_ParseTuple(arguments, "OfO:scan", &array, &scale, &target))
        return NULL;
    if (!get_buffer(array, 0, "f", "values: not float32", &values))
        return NULL;
    if (!get_buffer(target, PyBUF_WRITABLE, "lq", "counts: not int64", &counts)) {
        PyBuffer_Release(&values);
        return NULL;
    }
    int has_bins = counts.len == BINS * (Py_ssize_t)sizeof(int64_t);
    if (has_bins) {
        Py_BEGIN_ALLOW_THREADS
        fits = scan_all(values.buf, values.len / (Py_ssize_t)sizeof(float), scale, counts.buf, &found);
        Py_END_ALLOW_THREADS
    } else
        PyErr_Format(PyExc_ValueError, "counts: not int64 [%d]", BINS);
    PyBuffer_Release(&values);
    PyBuffer_Release(&counts);
    return has_bins ? as_tuple(found, fits) : NULL;
}

static PyMethodDef methods[] = {
    {"extremes", extremes, METH_O, "extremes(values): the smallest and the largest; NaN twice if one is NaN."},
    {"scan", scan, METH_VARARGS,
     "scan(values, scale, counts): extremes, and whether all values have bins; if so, each is added to "
     "counts[floor(value * scale) + HALF]."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_counting", "Extremes and counts of float32 values.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__counting(void)
{
    return PyModule_Create(&definition);
}
