"""Waiting for the other side."""

from __future__ import annotations

import time

from edgebig.serve import layout as at
from edgebig.serve.segment import Segment


class Spin:
    """When to look for a word's change, and when to sleep: looking wakes nobody up, but keeps a core busy.

    Where changes lately came within the limit, looking starts at once. Where they came later but regularly, as from a
    camera, it starts the limit before the usual time and ends the limit after it. Otherwise there is none: a look in
    vain keeps a core from whoever is to change the word. So a wait looks for at most twice the limit.

    The usual time and its deviation are the running estimates of V. Jacobson, "Congestion avoidance and control" (1988),
    both with a gain of 1/4.
    """

    def __init__(self, limit_ns: int) -> None:
        self._limit = limit_ns
        self._typical = self._deviation = 0

    def plan(self, waited_ns: int) -> tuple[int, int]:
        """What to do after having waited so long: nanoseconds to sleep for, then to look for."""
        limit, typical = self._limit, self._typical
        if typical <= limit:
            return 0, max(limit - waited_ns, 0)
        if self._deviation > limit // 2 or waited_ns >= typical + limit:
            return 0, 0
        begin = max(waited_ns, typical - limit)
        return begin - waited_ns, typical + limit - begin

    def learn(self, waited_ns: int) -> None:
        """Takes into account how long a wait was."""
        error = waited_ns - self._typical
        self._typical += error // 4
        self._deviation += (abs(error) - self._deviation) // 4


def wait_until_served(segment: Segment, seconds: float) -> bool:
    """Whether the segment's server takes requests, within that time."""
    end = time.monotonic() + seconds
    while segment.words.load32(at.STATE) == at.STARTING:
        if time.monotonic() > end or not segment.is_served():
            return False
        time.sleep(0.005)
    return bool(segment.words.load32(at.STATE) == at.SERVING)
