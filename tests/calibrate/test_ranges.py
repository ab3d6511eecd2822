"""Ranges survive a file and merge."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

pytest.importorskip("onnx_ir")

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
