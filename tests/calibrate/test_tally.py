"""What is learnt of a sample at once is what looking at its values one after the other would give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("onnx_ir")

from edgebig.calibrate.counting import scan
from edgebig.calibrate.histogram import DyadicHistogram
from edgebig.calibrate.statistics import TensorStatistics
from edgebig.calibrate.tally import Tally, rectified, tally

Array = np.ndarray[Any, Any]
VALUES = arrays(
    np.float32,
    st.integers(0, 40),
    elements=st.floats(width=32, allow_nan=False),
    fill=st.floats(width=32, allow_nan=False),
)


def counted(samples: list[Array]) -> TensorStatistics:
    """Statistics, each sample with its extremes from NumPy."""
    statistics = TensorStatistics(counted=True)
    for values in samples:
        low_high = (float(values.min()), float(values.max())) if values.size else (math.inf, -math.inf)
        statistics.update(*low_high, values)
    return statistics


def assert_same(found: TensorStatistics, expected: TensorStatistics) -> None:
    assert (found.smallest, found.largest) == (expected.smallest, expected.largest)
    assert (found.samples, found.unbounded, found.sums) == (expected.samples, expected.unbounded, expected.sums)
    assert found.histogram is not None and expected.histogram is not None
    assert found.histogram.exponent == expected.histogram.exponent
    np.testing.assert_array_equal(found.histogram.counts, expected.histogram.counts)


@settings(deadline=None, max_examples=200)
@given(st.lists(VALUES, max_size=5))
@example([np.float32([0, 0]), np.float32([1]), np.float32([-5000, 3]), np.float32([])])
@example([np.float32([-np.inf, 1]), np.float32([2])])
def test_tallies_are_the_statistics_of_the_values(samples: list[Array]) -> None:
    statistics = TensorStatistics(counted=True)
    for values in samples:
        statistics.take(tally(values, statistics.histogram))
    assert_same(statistics, counted(samples))


def test_bins_that_another_thread_widens_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads share a tensor's histogram: the one that counts must name the bins that it counted in."""
    statistics = TensorStatistics(counted=True)
    first, second, wide = np.float32([1]), np.float32([0.3, -0.7, 0.9]), np.float32([500])
    statistics.take(tally(first, statistics.histogram))

    def scan_while_another_takes(values: Array, scale: float, counts: Array) -> tuple[float, float, bool]:
        found = scan(values, scale, counts)
        statistics.update(500, 500, wide)
        return found

    monkeypatch.setattr("edgebig.calibrate.tally.scan", scan_while_another_takes)
    statistics.take(tally(second, statistics.histogram))
    assert_same(statistics, counted([first, second, wide]))


@settings(deadline=None, max_examples=200)
@given(st.lists(VALUES, max_size=5))
@example([np.float32([-5000, 1]), np.float32([-1, 2])])
@example([np.float32([-1, -2])])
@example([np.float32([-np.inf, 1])])
@example([np.float32([-np.inf, np.inf])])
def test_a_relu_follows_from_its_input(samples: list[Array]) -> None:
    before, after = TensorStatistics(counted=True), TensorStatistics(counted=True)
    for values in samples:
        found = tally(values, before.histogram)
        after.take(rectified(values, found, after.histogram))
        before.take(found)
    assert_same(after, counted([np.maximum(values, np.float32(0)) for values in samples]))


def test_only_extremes_where_nothing_is_counted() -> None:
    values = np.float32([-3, 2])
    assert tally(values, None) == Tally(-3.0, 2.0)
    assert rectified(values, Tally(-3.0, 2.0), None) == Tally(0.0, 2.0)
    assert math.isnan(tally(np.float32([1, np.nan]), DyadicHistogram()).smallest)
