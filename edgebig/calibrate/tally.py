"""Tally: what is learnt of one tensor's values on one sample, before it enters the statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgebig.calibrate.counting import extremes, scan
from edgebig.calibrate.histogram import DyadicHistogram, exponent_for

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tally:
    """One sample's values of a tensor.

    Attributes:
        smallest, largest: ``inf`` and ``-inf`` of an empty tensor, NaN where a value is one.
        counts: of the values; ``None`` where they are not wanted, or not all finite.
    """

    smallest: float
    largest: float
    counts: DyadicHistogram | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether there are values and all are finite."""
        return math.isfinite(self.smallest) and math.isfinite(self.largest)


def tally(values: Array, like: DyadicHistogram | None) -> Tally:
    """Looks at values, float32 of any shape, once in most cases.

    Args:
        values: of one tensor on one sample.
        like: the histogram that the counts are for; ``None`` where only extremes are wanted. Bins as wide as its own
            lose nothing, since it never gets narrower ones; values beyond them are counted in wider ones.
    """
    if like is None:
        return Tally(*extremes(values))
    counts = DyadicHistogram()
    # read once: while this thread counts, another may widen the bins
    exponent = like.exponent
    if exponent is None:
        low, high = extremes(values)
    else:
        low, high, fits = scan(values, math.ldexp(1.0, -exponent), counts.counts)
        if fits:
            counts.exponent = exponent
            return Tally(low, high, counts)
        counts = DyadicHistogram()
    found = Tally(low, high)
    if not found.is_bounded:
        return found
    counts.update(values, low, high)
    return Tally(low, high, counts)


def rectified(values: Array, found: Tally, like: DyadicHistogram | None) -> Tally:
    """What follows for the values after a Relu.

    Args:
        values: before it.
        found: their tally.
        like: as in :func:`tally`.
    """
    if found.smallest > found.largest:
        return Tally(found.smallest, found.largest)
    after = Tally(max(found.smallest, 0.0), max(found.largest, 0.0))
    if like is None or not after.is_bounded:
        return after
    widths = [e for e in (like.exponent, exponent_for(after.smallest, after.largest)) if e is not None]
    counts = found.counts
    if counts is None or (counts.exponent is not None and counts.exponent > max(widths, default=counts.exponent - 1)):
        # nothing was counted, or in wider bins than the values after the Relu need
        return tally(np.maximum(values, np.float32(0)), like)
    return Tally(after.smallest, after.largest, counts.rectified())
