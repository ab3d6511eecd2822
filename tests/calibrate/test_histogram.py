"""The histogram's state depends on the values alone: not on their order, their batches, or the tree of merges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("onnx_ir")

from edgebig.calibrate.counting import HALF
from edgebig.calibrate.histogram import DyadicHistogram, exponent_for

Array = np.ndarray[Any, Any]
EDGES = [k * 2.0**e for e in (-140, -120, -12, 0, 3, 100) for k in (-3, -2, -1, 1, 2, 3)]
ODD = [0.0, -0.0, 1e38, -1e38, 1e-45, -1e-45, 1e-38, -1e-38, 2.0**-120, -(2.0**-121), 4096.0, -4096.0, *EDGES]
NUMBERS = st.one_of(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from(ODD))
VALUES = arrays(np.float32, st.integers(1, 40), elements=NUMBERS)


def counted(*parts: Array) -> DyadicHistogram:
    histogram = DyadicHistogram()
    for values in parts:
        histogram.update(values, float(values.min()), float(values.max()))
    return histogram


def state(histogram: DyadicHistogram) -> tuple[int | None, bytes]:
    assert histogram.counts.shape == (2 * HALF,) and histogram.counts.dtype == np.int64
    return histogram.exponent, histogram.counts.tobytes()


@settings(deadline=None, max_examples=200)
@given(VALUES)
def test_counts_are_the_floors_in_float64(values: Array) -> None:
    histogram = counted(values)
    expected = np.zeros(2 * HALF, np.int64)
    width = histogram.width or 1.0
    bins = np.floor(values.astype(np.float64) / width).astype(int)
    np.add.at(expected, bins + HALF, 1)
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.total == values.size
    largest = float(np.abs(values).max())
    if largest == 0:
        assert histogram.exponent is None and histogram.width == 0
    elif largest >= 2.0**-109:  # below, the narrowest bin is the limit
        assert HALF // 2 * width <= largest <= HALF * width


@settings(deadline=None, max_examples=150)
@given(st.lists(VALUES, min_size=1, max_size=8), st.data())
def test_order_batches_and_merges_do_not_matter(parts: list[Array], data: st.DataObject) -> None:
    everything = np.concatenate(parts)
    whole = state(counted(everything))
    assert state(counted(*parts)) == whole
    assert state(counted(*parts[::-1])) == whole
    assert state(counted(np.sort(everything))) == whole
    forest = [counted(part) for part in parts] + [DyadicHistogram()]
    while len(forest) > 1:
        other = forest.pop(data.draw(st.integers(0, len(forest) - 1)))
        forest[data.draw(st.integers(0, len(forest) - 1))].merge(other)
    assert state(forest[0]) == whole


def test_merging_leaves_the_other_as_it_was() -> None:
    small, large = counted(np.float32([1, -1])), counted(np.float32([1000]))
    before = state(small)
    large.merge(small)
    assert state(small) == before and large.total == 3


def test_zeros_alone_have_no_width_and_stay_zeros_later() -> None:
    histogram = counted(np.zeros((2, 3), np.float32))
    assert histogram.exponent is None and histogram.counts[HALF] == 6
    histogram.merge(counted(np.float32([-8])))
    assert (histogram.counts[HALF], histogram.counts[HALF - HALF // 2], histogram.total) == (6, 1, 7)


@pytest.mark.parametrize(
    ("smallest", "largest", "exponent"),
    [(0, 0, None), (0, 1, -11), (-1, 0, -11), (0, math.nextafter(1, 0), -12), (-4096, 1, 1), (0, 1e-45, -120)],
)
def test_the_exponent(smallest: float, largest: float, exponent: int | None) -> None:
    assert exponent_for(smallest, largest) == exponent


def test_magnitudes_and_centers() -> None:
    histogram = counted(np.float32([0.25, -0.25, 0.7, -0.7, -1.0]))
    width = histogram.width
    magnitudes, centers = histogram.magnitudes(), histogram.centers()
    assert magnitudes.shape == (HALF,) and magnitudes.sum() == 5
    # -1 and -0.25 lie on the lower edges of their bins, which hold [-1, -1 + width) and so on
    used = np.flatnonzero(magnitudes) * width
    np.testing.assert_allclose(used, [0.25 - width, 0.25, 0.7, 1.0 - width], atol=width, rtol=0)
    assert centers.shape == (2 * HALF,)
    assert centers[HALF] == width / 2 and centers[HALF - 1] == -width / 2
