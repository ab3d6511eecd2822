"""Waiting for the other side."""

from __future__ import annotations

import time
from collections import deque

from edgebig.serve import layout as at
from edgebig.serve.segment import Segment

_WAITS = 8


class Spin:
    """How long to look for a word's change before sleeping: not at all where that has lately been in vain.

    A look that is in vain keeps a core from whoever is to change the word: on two cores that costs more than waking up.
    Lately is the median of the last eight waits, which one pause does not move.
    """

    def __init__(self, limit_ns: int) -> None:
        self._limit = limit_ns
        self._waits = deque([0] * _WAITS, _WAITS)

    def look(self, waited_ns: int = 0) -> int:
        """Nanoseconds to look for, after having waited so long already."""
        if sorted(self._waits)[_WAITS // 2] > self._limit:
            return 0
        return max(self._limit - waited_ns, 0)

    def learn(self, waited_ns: int) -> None:
        """Takes into account how long a wait was."""
        self._waits.append(waited_ns)


def wait_until_served(segment: Segment, seconds: float) -> bool:
    """Whether the segment's server takes requests, within that time."""
    end = time.monotonic() + seconds
    while segment.words.load32(at.STATE) == at.STARTING:
        if time.monotonic() > end or not segment.is_served():
            return False
        time.sleep(0.005)
    return bool(segment.words.load32(at.STATE) == at.SERVING)
