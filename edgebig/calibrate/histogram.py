"""DyadicHistogram: counts of a stream of values whose range is not known beforehand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgebig.calibrate.counting import HALF, scan

Array = np.ndarray[Any, Any]

_SMALLEST = -120
"""Exponent of the narrowest bin: values below are zero to any number format."""


class DyadicHistogram:
    """Counts in bins ``[k * 2^e, (k + 1) * 2^e)`` for ``k`` from ``-HALF`` to ``HALF - 1``.

    The exponent ``e`` is the smallest for which every value so far has a bin: the widest lies in the outer half
    of them, so that 2048 bins at least are used. When it grows by one, pairs of bins become one, and that is
    exactly what counting anew with the wider bins would give: ``floor(floor(x / w) / 2) == floor(x / (2 w))``.
    The state thus depends on the values alone, not on their order, the size of a batch, or in which parts they
    were counted before a merge.

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
        scan(values, math.ldexp(1.0, -self.exponent), self.counts)

    def merge(self, other: DyadicHistogram) -> None:
        """Adds what another histogram has counted."""
        self._widen(other.exponent)
        counts = other.counts
        if self.exponent is not None and other.exponent is not None:
            counts = _coarser(counts, self.exponent - other.exponent)
        self.counts += counts

    def rectified(self) -> DyadicHistogram:
        """Counts of ``max(x, 0)`` in bins as wide as these."""
        found = DyadicHistogram()
        found.exponent = self.exponent
        found.counts[HALF:] = self.counts[HALF:]
        found.counts[HALF] += self.counts[:HALF].sum()
        return found

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
