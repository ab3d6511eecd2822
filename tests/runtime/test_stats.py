"""Counts and percentiles."""

from __future__ import annotations

from edgebig.runtime.stats import WINDOW, Recorder


def test_percentiles_are_of_the_nearest_rank_in_seconds() -> None:
    recorder = Recorder()
    assert recorder.percentiles(0.5, 0.99) == [None, None]
    for number in range(100, 0, -1):
        recorder.next()
        recorder.add(number * 1_000_000_000)
    assert recorder.percentiles(0.5, 0.95, 0.99, 1.0) == [50, 95, 99, 100]
    assert recorder.calls() == recorder.calls() == 100


def test_only_the_latest_times_are_kept_but_all_are_counted() -> None:
    recorder = Recorder()
    for number in range(WINDOW + 500):
        recorder.next()
        recorder.add(1_000_000_000 if number < 500 else 2_000_000_000)
    assert recorder.percentiles(0.0) == [2]
    assert recorder.calls() == WINDOW + 500
