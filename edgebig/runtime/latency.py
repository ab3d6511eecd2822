"""How long one run of a session takes."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgebig.errors import UsageError
from edgebig.runtime.session import Session

_WARM_UP = 0.2  # of the time asked, and two runs at least: the first ones allocate


@dataclass(frozen=True)
class Latency:
    """Times of single runs, one after the other.

    Attributes:
        p50_ms, p90_ms, p99_ms, mean_ms: of one run, in milliseconds (percentiles with NumPy's linear interpolation).
        runs: how many were timed.
        throughput_per_s: runs a second over the whole measurement.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    runs: int
    throughput_per_s: float


def bench(session: Session, feeds: Mapping[str, np.ndarray[Any, Any]], seconds: float) -> Latency:
    """Runs the session on ``feeds`` for that many seconds of wall time (one run at least), after a warm-up.

    Raises:
        UsageError: ``seconds`` is not above 0.
        InputError, BackendError: as :meth:`Session.run`.
    """
    if not seconds > 0:
        raise UsageError(f"the time to measure must be above 0 seconds, found {seconds:g}")
    _run_for(session, feeds, seconds * _WARM_UP, at_least=2)
    times, elapsed = _run_for(session, feeds, seconds, at_least=1)
    in_ms = np.frombuffer(times, dtype=np.int64) / 1e6
    p50, p90, p99 = (float(p) for p in np.percentile(in_ms, [50, 90, 99]))
    return Latency(p50, p90, p99, float(in_ms.mean()), len(times), len(times) / (elapsed / 1e9))


def _run_for(
    session: Session, feeds: Mapping[str, np.ndarray[Any, Any]], seconds: float, at_least: int
) -> tuple[array[int], int]:
    """Nanoseconds of each run, and of all together."""
    times = array("q")
    start = now = perf_counter_ns()
    end = start + int(seconds * 1e9)
    while now < end or len(times) < at_least:
        before = perf_counter_ns()
        session.run(feeds)
        now = perf_counter_ns()
        times.append(now - before)
    return times, now - start
