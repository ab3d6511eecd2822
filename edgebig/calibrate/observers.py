"""Observers: each makes a range of a stream of values, in a state of fixed size."""

from __future__ import annotations

import math

from edgebig.calibrate.ranges import Range


class MinMaxObserver:
    """Smallest and largest value seen: the range that clips nothing.

    Two observers of parts of the data merge to what one observer of all of it would hold,
    whatever the order and the batch size.
    """

    name = "min-max"

    def __init__(self) -> None:
        self._min = math.inf
        self._max = -math.inf

    def update(self, smallest: float, largest: float) -> None:
        """Takes the extremes of one more batch; an empty one (``inf``, ``-inf``) changes nothing."""
        self._min = min(self._min, smallest)
        self._max = max(self._max, largest)

    def merge(self, other: MinMaxObserver) -> None:
        """Takes over what another observer has seen."""
        self.update(other._min, other._max)

    @property
    def is_empty(self) -> bool:
        """Whether no value was seen."""
        return self._min > self._max

    def range(self) -> Range:
        """The range of what was seen; 0 to 0 where that was nothing."""
        return Range(0.0, 0.0) if self.is_empty else Range(self._min, self._max)
