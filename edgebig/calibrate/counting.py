"""count: adds values to a histogram's counts; compiled where the package was built with a C compiler."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

HALF = 4096
"""Bins on each side of zero."""

_CHUNK = 1 << 18
"""Values that NumPy counts at once: few enough to stay in the cache, and enough that threads that count
side by side seldom wait for Python's lock between its calls."""


class _Scratch(threading.local):
    """Memory that every count of a thread uses again: fresh pages would cost as much as the counting."""

    def __init__(self) -> None:
        self.scaled = np.empty(_CHUNK, np.float32)
        self.narrow = np.empty(_CHUNK, np.int32)
        self.bins = np.empty(_CHUNK, np.intp)
        self.tables = np.arange(_CHUNK, dtype=np.int32) % 2 * HALF


_scratch = _Scratch()


def count_with_numpy(values: Array, scale: float, counts: Array) -> None:
    """Adds one to ``counts[floor(value * scale) + HALF]`` for each value.

    Args:
        values: float32, of any shape, all finite and within the bins.
        scale: a power of two.
        counts: int64 [2 * HALF].
    """
    flat, factor = values.reshape(-1), np.float32(scale)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        if part.min() < 0:
            counts += _signed(part, factor)
        else:
            counts[HALF:] += _positive(part, factor)


def _signed(values: Array, scale: np.float32) -> Array:
    """Counts of at most ``_CHUNK`` values, int64 [2 * HALF]."""
    scaled = np.multiply(values, scale, out=_scratch.scaled[: values.size])
    np.floor(scaled, out=scaled)
    if scale < 1:
        # the product of a tiny negative value may vanish, and its bin is the one below zero
        scaled[(scaled == 0) & (values < 0)] = -1
    scaled += np.float32(HALF)
    # by way of int32: NumPy converts float32 to int64 one value at a time
    narrow, bins = _scratch.narrow[: values.size], _scratch.bins[: values.size]
    narrow[...] = scaled
    bins[...] = narrow
    counts: Array = np.bincount(bins, minlength=2 * HALF)
    return counts


def _positive(values: Array, scale: np.float32) -> Array:
    """Counts of at most ``_CHUNK`` values, none below zero, int64 [HALF].

    Neighbours are counted in two tables in turn: the many zeros after a Relu would else wait for each
    other, since one bin cannot be read before what was added to it last is written.
    """
    scaled = np.multiply(values, scale, out=_scratch.scaled[: values.size])
    narrow, bins = _scratch.narrow[: values.size], _scratch.bins[: values.size]
    narrow[...] = scaled
    narrow += _scratch.tables[: values.size]
    bins[...] = narrow
    counts: Array = np.bincount(bins, minlength=2 * HALF).reshape(2, HALF).sum(axis=0)
    return counts


try:
    from edgebig.calibrate._counting import count as _compiled
except ImportError:
    _compiled = None  # type: ignore[assignment]


def count(values: Array, scale: float, counts: Array) -> None:
    """As :func:`count_with_numpy`, with the same counts; other threads run meanwhile where it is compiled."""
    if _compiled is None:
        count_with_numpy(values, scale, counts)
    else:
        _compiled(np.ascontiguousarray(values), scale, counts)


IS_COMPILED = _compiled is not None
