"""Waiting for the other side."""

from __future__ import annotations

import time

from edgebig.serve import layout as at
from edgebig.serve.segment import Segment


class Spin:
    """How long to look for a word's change before sleeping: not at all where that has lately been in vain.

    A look that is in vain keeps a core from whoever is to change the word: on two cores that costs more than waking up.
    """

    def __init__(self, limit_ns: int) -> None:
        self._limit = limit_ns
        self._typical = 0

    def limit(self) -> int:
        """Nanoseconds to look for."""
        return self._limit if self._typical <= self._limit else 0

    def learn(self, changed: bool, waited_ns: int) -> None:
        """Takes into account how long a wait was."""
        self._typical += ((waited_ns if changed else 2 * self._limit) - self._typical) // 4


def wait_until_served(segment: Segment, seconds: float) -> bool:
    """Whether the segment's server takes requests, within that time."""
    end = time.monotonic() + seconds
    while segment.words.load32(at.STATE) == at.STARTING:
        if time.monotonic() > end or not segment.is_served():
            return False
        time.sleep(0.005)
    return bool(segment.words.load32(at.STATE) == at.SERVING)
