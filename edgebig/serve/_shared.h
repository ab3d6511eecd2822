/* What the two files of the module share. */

#ifndef EDGEBIG_SHARED_H
#define EDGEBIG_SHARED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    int held;
} Words;

/* Of CLOCK_MONOTONIC. */
int64_t now_ns(void);

/* The word at `offset`, which must lie in the memory and be aligned to its size; NULL with an error set otherwise. */
void *at(Words *self, Py_ssize_t offset, Py_ssize_t size);

/* Waits, without Python's lock, until the word is (`wanted`) or is no longer (!`wanted`) `value`; `found` is what it is
 * then. 0 with an error set. */
int wait_unlocked(Words *self, uint32_t *word, uint32_t *sleepers, uint32_t value, int wanted, long long timeout,
                  long long spin, uint32_t *found);

PyObject *words_next_request(Words *self, PyObject *args);
PyObject *words_answer(Words *self, PyObject *args);
PyObject *shared_bin_of(PyObject *module, PyObject *args);

#endif
