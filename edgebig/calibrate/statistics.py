"""TensorStatistics: all that is kept of the values that a tensor took, in a state of fixed size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgebig.calibrate.histogram import DyadicHistogram
from edgebig.calibrate.tally import Tally

Array = np.ndarray[Any, Any]

_UNIT = 1074
"""Every float64 is a whole multiple of 2^-1074."""


class TensorStatistics:
    """Extremes, mean of each sample's extremes, and a histogram of one tensor's values.

    It is fed one sample after the other. Statistics of parts of the data merge to exactly what those
    of all of it would be, in whatever order: counts and extremes are exact, and so are the sums of
    the means, which are kept as whole numbers.

    Attributes:
        samples: number of samples that held values.
        histogram: counts of the values; empty unless they are asked for.
        sums: of each sample's smallest and largest value, in units of 2^-1074.
        unbounded: number of samples on which a value was infinite; they enter the extremes alone.
    """

    def __init__(self, *, counted: bool) -> None:
        """``counted``: whether the histogram is kept, which methods other than min-max need."""
        self.samples = 0
        self.unbounded = 0
        self.smallest = math.inf
        self.largest = -math.inf
        self.histogram = DyadicHistogram() if counted else None
        self.sums = [0, 0]

    def update(self, smallest: float, largest: float, values: Array | None = None) -> None:
        """Takes one sample's extremes, and its values where a histogram is kept.

        An empty tensor has the extremes ``inf`` and ``-inf`` and changes nothing.
        """
        if self.histogram is not None and values is not None and math.isfinite(smallest) and math.isfinite(largest):
            counts = DyadicHistogram()
            counts.update(values, smallest, largest)
            self.take(Tally(smallest, largest, counts))
        else:
            self.take(Tally(smallest, largest))

    def take(self, tally: Tally) -> None:
        """Takes what a sample's values were found to be; those of an empty tensor change nothing."""
        if tally.smallest > tally.largest:
            return
        self.smallest, self.largest = min(self.smallest, tally.smallest), max(self.largest, tally.largest)
        self.samples += 1
        if not tally.is_bounded:
            self.unbounded += 1
            return
        self.sums[0] += _whole(tally.smallest)
        self.sums[1] += _whole(tally.largest)
        if self.histogram is not None and tally.counts is not None:
            self.histogram.merge(tally.counts)

    def merge(self, other: TensorStatistics) -> None:
        """Takes over what other statistics of the same tensor hold."""
        self.samples += other.samples
        self.unbounded += other.unbounded
        self.smallest, self.largest = min(self.smallest, other.smallest), max(self.largest, other.largest)
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]
        if self.histogram is not None and other.histogram is not None:
            self.histogram.merge(other.histogram)

    @property
    def mean_extremes(self) -> tuple[float, float]:
        """Mean over the bounded samples of their smallest and of their largest value; zeros without any."""
        bounded = self.samples - self.unbounded
        if bounded == 0:
            return 0.0, 0.0
        low, high = (total / (bounded << _UNIT) for total in self.sums)
        return low, high


def _whole(value: float) -> int:
    """The value in units of 2^-1074, exactly."""
    numerator, denominator = float(value).as_integer_ratio()
    return (numerator << _UNIT) // denominator
