"""Waiting for the other side."""

from __future__ import annotations

import time
from collections import deque

from edgebig.serve import layout as at
from edgebig.serve.segment import Segment

_WAITS = 8
_OUTER = 1


class Spin:
    """When to look for a word's change, and when to sleep: looking wakes nobody up, but keeps a core busy.

    The usual wait is the median of the last eight. Where it lies within the limit, looking starts at once and lasts as
    long as the limit. Where it is longer but regular, as with a camera, looking starts the limit before it and ends the
    limit after it: it costs at most twice the limit. Regular is what lies within the limit without the shortest and the
    longest of the eight, so that one frame that is late, or a pause, changes nothing. Otherwise there is no looking: in
    vain it would keep a core from whoever is to change the word.
    """

    def __init__(self, limit_ns: int) -> None:
        self._limit = limit_ns
        self._waits = deque([0] * _WAITS, _WAITS)

    def plan(self, waited_ns: int) -> tuple[int, int]:
        """What to do after having waited so long: nanoseconds to sleep for, then to look for."""
        limit, waits = self._limit, sorted(self._waits)
        usual = waits[_WAITS // 2]
        if usual <= limit:
            return 0, max(limit - waited_ns, 0)
        if waits[-1 - _OUTER] - waits[_OUTER] > limit or waited_ns >= usual + limit:
            return 0, 0
        begin = max(waited_ns, usual - limit)
        return begin - waited_ns, usual + limit - begin

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
