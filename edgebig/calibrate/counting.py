"""extremes and scan: what calibration asks of every value; compiled where the package was built with a C compiler."""

from __future__ import annotations

import math
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


def extremes_with_numpy(values: Array) -> tuple[float, float]:
    """Smallest and largest value, ``inf`` and ``-inf`` of none, NaN twice where one is NaN; ``values`` as in scan."""
    if values.size == 0:
        return math.inf, -math.inf
    return float(values.min()), float(values.max())


def scan_with_numpy(values: Array, scale: float, counts: Array) -> tuple[float, float, bool]:
    """The extremes, and whether every value has a bin; if so, ``counts[floor(value * scale) + HALF]`` grows for each.

    Args:
        values: float32, of any shape.
        scale: a power of two.
        counts: int64 [2 * HALF]; of no use where a value has no bin.
    """
    low, high = extremes_with_numpy(values)
    fits = values.size == 0 or (low * scale >= -HALF and high * scale < HALF)
    if fits:
        _count(values.reshape(-1), np.float32(scale), counts)
    return low, high, fits


def _count(flat: Array, factor: np.float32, counts: Array) -> None:
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
    import edgebig.calibrate._counting as _compiled
except ImportError:
    _compiled = None  # type: ignore[assignment]


def extremes(values: Array) -> tuple[float, float]:
    """As :func:`extremes_with_numpy`; other threads run meanwhile where it is compiled."""
    if _compiled is None:
        return extremes_with_numpy(values)
    return _compiled.extremes(np.ascontiguousarray(values))


def scan(values: Array, scale: float, counts: Array) -> tuple[float, float, bool]:
    """As :func:`scan_with_numpy`, with the same result; other threads run meanwhile where it is compiled."""
    if _compiled is None:
        return scan_with_numpy(values, scale, counts)
    return _compiled.scan(np.ascontiguousarray(values), scale, counts)


IS_COMPILED = _compiled is not None
