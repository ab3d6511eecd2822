"""Stats: what a session counts while it runs, at a cost of two readings of the clock a call."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import count
from threading import RLock

WINDOW = 2048
"""Of how many of the latest calls the times are kept."""


@dataclass(frozen=True)
class Stats:
    """What a session did since it was opened.

    Attributes:
        calls: runs that gave a result, those of bindings and streams among them.
        p50, p95, p99: percentiles of the seconds that the latest 2048 of them took, checks included and waiting in a
            queue not; ``None`` before the first.
        queue_depth: calls of ``run_async`` and of ``run`` with a timeout that have not begun yet.
        in_flight: of these, those that run now.
        drops: results that came after their deadline, and calls given up in the queue because of it.
        errors: calls that raised, deadlines not among them.
        device_memory: bytes that the engine holds of its device's memory; ``None`` where the backend cannot say.
    """

    calls: int
    p50: float | None
    p95: float | None
    p99: float | None
    queue_depth: int
    in_flight: int
    drops: int
    errors: int
    device_memory: int | None


class Recorder:
    """Counts calls and keeps the latest times, from several threads and from signal handlers, without a lock.

    A call does ``recorder.next(); recorder.add(nanoseconds)``. Both are single operations of objects written in C,
    which no other thread can interrupt. Errors and drops are rare and take a lock.
    """

    def __init__(self) -> None:
        self._times: deque[int] = deque(maxlen=WINDOW)
        self._counter = count()
        self.next = self._counter.__next__
        self.add = self._times.append
        self._looks = 0
        self._lock = RLock()  # reentrant: a signal handler may run the session too
        self.errors = 0
        self.drops = 0

    def calls(self) -> int:
        """How many there were. Looking takes a number of the counter, so looks are counted as well."""
        with self._lock:
            found = self.next() - self._looks
            self._looks += 1
        return found

    def failed(self) -> None:
        """Counts an error."""
        with self._lock:
            self.errors += 1

    def dropped(self) -> None:
        """Counts a result that came too late."""
        with self._lock:
            self.drops += 1

    def percentiles(self, *parts: float) -> list[float | None]:
        """Seconds below which those parts (0 to 1) of the latest calls stayed (the nearest rank)."""
        times = sorted(self._times.copy())
        if not times:
            return [None for _ in parts]
        return [times[max(0, math.ceil(part * len(times) - 1e-9) - 1)] / 1e9 for part in parts]
