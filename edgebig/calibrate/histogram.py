"""DyadicHistogram: counts of a stream of values whose range is not known beforehand."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

HALF = 4096
"""Bins on each side of zero. The widest value lies in the outer half of them: 2048 bins at least are used."""

_SMALLEST = -120
"""Exponent of the narrowest bin: values below are zero to any number format."""


_CHUNK = 1 << 18
"""Values that are counted at once: few enough to stay in the cache, and enough that threads that count
side by side seldom wait for Python's lock between NumPy's calls."""


class _Scratch(threading.local):
    """Memory that every count of a thread uses again: fresh pages would cost as much as the counting."""

    def __init__(self) -> None:
        self.scaled = np.empty(_CHUNK, np.float32)
        self.narrow = np.empty(_CHUNK, np.int32)
        self.bins = np.empty(_CHUNK, np.intp)
        self.tables = np.arange(_CHUNK, dtype=np.int32) % 2 * HALF


_scratch = _Scratch()


class DyadicHistogram:
    """Counts in bins ``[k * 2^e, (k + 1) * 2^e)`` for ``k`` from ``-HALF`` to ``HALF - 1``.

    The exponent ``e`` is the smallest for which every value so far has a bin. When it grows by one,
    pairs of bins become one, and that is exactly what counting anew with the wider bins would give:
    ``floor(floor(x / w) / 2) == floor(x / (2 w))``. The state thus depends on the values alone, not on
    their order, the size of a batch, or in which parts they were counted before a merge.

    Attributes:
        exponent: ``e``; ``None`` before the first value that is not zero.
        counts: int64 [2 * HALF]; index ``HALF`` holds ``[0, 2^e)``.
    """

    def __init__(self) -> None:
        self.exponent: int | None = None
        self.counts = np.zeros(2 * HALF, np.int64)

    @property
    def width(self) -> float:
        """Width of a bin; 0 while only zeros were seen."""
        return 0.0 if self.exponent is None else math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    def update(self, values: Array, smallest: float, largest: float) -> None:
        """Counts values, of any shape, float32.

        Args:
            values: all finite.
            smallest, largest: of the values.
        """
        self._widen(exponent_for(smallest, largest))
        if self.exponent is None:
            self.counts[HALF] += values.size
            return
        scale = np.float32(math.ldexp(1.0, -self.exponent))
        flat = values.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            part = flat[start : start + _CHUNK]
            if smallest < 0:
                self.counts += _signed(part, scale, may_vanish=self.exponent > 0)
            else:
                self.counts[HALF:] += _positive(part, scale)

    def merge(self, other: DyadicHistogram) -> None:
        """Adds what another histogram has counted."""
        self._widen(other.exponent)
        counts = other.counts
        if self.exponent is not None and other.exponent is not None:
            counts = _coarser(counts, self.exponent - other.exponent)
        self.counts = self.counts + counts

    def magnitudes(self) -> Array:
        """Counts of ``|x|`` in bins ``[k, k + 1)`` widths, int64 [HALF]; a negative edge counts one bin outside."""
        return self.counts[HALF:] + self.counts[:HALF][::-1]

    def centers(self) -> Array:
        """The bins' centers, float64 [2 * HALF]."""
        return (np.arange(-HALF, HALF) + 0.5) * self.width

    def _widen(self, exponent: int | None) -> None:
        if exponent is None or (self.exponent is not None and exponent <= self.exponent):
            return
        if self.exponent is not None:
            self.counts = _coarser(self.counts, exponent - self.exponent)
        self.exponent = exponent


def _signed(values: Array, scale: np.float32, *, may_vanish: bool) -> Array:
    """Counts of at most ``_CHUNK`` values, int64 [2 * HALF]."""
    scaled = np.multiply(values, scale, out=_scratch.scaled[: values.size])
    np.floor(scaled, out=scaled)
    if may_vanish:
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


def exponent_for(smallest: float, largest: float) -> int | None:
    """The exponent whose bins hold both values; ``None`` for zeros."""
    magnitude = max(-smallest, largest)
    if magnitude <= 0:
        return None
    # frexp: magnitude = m * 2^e with 0.5 <= m < 1, so that it lies below HALF bins of 2^e / HALF
    _, exponent = math.frexp(magnitude)
    return max(exponent - int(math.log2(HALF)), _SMALLEST)


def _coarser(counts: Array, doublings: int) -> Array:
    """The counts in bins ``2^doublings`` times as wide."""
    for _ in range(min(doublings, int(math.log2(HALF)) + 1)):
        merged = np.zeros_like(counts)
        quarter = HALF // 2
        merged[quarter : quarter + HALF] = counts.reshape(-1, 2).sum(axis=1)
        counts = merged
    return counts
