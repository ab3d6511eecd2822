"""Ranges survive a file, and observers merge to the same whatever the split."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx_ir")

from edgebig.calibrate.observers import MinMaxObserver
from edgebig.calibrate.ranges import Range, Ranges

FLOATS = st.floats(width=32, allow_nan=False)


def test_a_file_keeps_ranges_exactly(tmp_path: Path) -> None:
    written = Ranges(
        {"a/b:0": Range(-0.1, float(np.float32(1) / 3)), "masked": Range(-math.inf, 2.5), "ünïcode": Range(0.0, 0.0)},
        7,
        "min-max",
        "photos",
    )
    written.save(tmp_path / "ranges.json")
    read = Ranges.load(tmp_path / "ranges.json")
    assert read == written and list(read) == ["a/b:0", "masked", "ünïcode"]
    assert read.get("none") is None


@pytest.mark.parametrize(("low", "high", "magnitude"), [(-3, 2, 3), (0, 5, 5), (-4, -1, 4), (0, 0, 0)])
def test_magnitude(low: float, high: float, magnitude: float) -> None:
    assert Range(low, high).magnitude == magnitude


def test_merging_ranges_keeps_the_extremes() -> None:
    assert Range(-1, 2).merge(Range(-3, 1)) == Range(-3, 2)


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(FLOATS), st.booleans())))
def test_observers_merge_to_what_one_would_have_seen(batches: list[tuple[list[float], bool]]) -> None:
    whole, left, right = MinMaxObserver(), MinMaxObserver(), MinMaxObserver()
    for values, goes_left in batches:
        extremes = (min(values, default=math.inf), max(values, default=-math.inf))
        whole.update(*extremes)
        (left if goes_left else right).update(*extremes)
    everything = [v for values, _ in batches for v in values]
    assert whole.is_empty == (not everything)
    left.merge(right)
    assert left.range() == whole.range()
    assert whole.range() == (Range(min(everything), max(everything)) if everything else Range(0.0, 0.0))
