"""Statistics merge exactly, in any order; infinities enter the extremes alone."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx_ir")

from edgebig.calibrate.statistics import TensorStatistics

Array = np.ndarray[Any, Any]
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
SAMPLES = st.lists(st.lists(FINITE, max_size=6), max_size=8)


def of(samples: list[list[float]], *, counted: bool = True) -> TensorStatistics:
    statistics = TensorStatistics(counted=counted)
    for sample in samples:
        values = np.array(sample, np.float32)
        statistics.update(min(sample, default=math.inf), max(sample, default=-math.inf), values)
    return statistics


def state(s: TensorStatistics) -> Any:
    histogram = None if s.histogram is None else (s.histogram.exponent, s.histogram.counts.tobytes())
    return s.samples, s.unbounded, s.smallest, s.largest, s.sums, histogram


@settings(deadline=None)
@given(SAMPLES)
def test_the_mean_of_extremes_is_exact(samples: list[list[float]]) -> None:
    full = [s for s in samples if s]
    expected = tuple(
        float(sum((Fraction(end(s)) for s in full), Fraction()) / len(full)) if full else 0.0 for end in (min, max)
    )
    found = of(samples)
    assert found.mean_extremes == expected
    assert found.samples == len(full) and found.unbounded == 0


@settings(deadline=None)
@given(SAMPLES, SAMPLES, SAMPLES, st.booleans())
def test_merging_is_associative_commutative_and_like_one_stream(
    a: list[list[float]], b: list[list[float]], c: list[list[float]], counted: bool
) -> None:
    def merged(*parts: list[list[float]]) -> TensorStatistics:
        whole = of([], counted=counted)
        for part in parts:
            whole.merge(of(part, counted=counted))
        return whole

    right = of(b, counted=counted)
    right.merge(of(c, counted=counted))
    left = of(a, counted=counted)
    left.merge(right)
    assert state(left) == state(merged(a, b, c)) == state(merged(c, a, b)) == state(of(a + b + c, counted=counted))


def test_infinities_enter_the_extremes_alone() -> None:
    found = of([[1.0, 2.0], [-math.inf, 5.0], [3.0, 4.0]])
    assert (found.smallest, found.largest, found.samples, found.unbounded) == (-math.inf, 5.0, 3, 1)
    assert found.mean_extremes == (2.0, 3.0)
    assert found.histogram is not None and found.histogram.total == 4
    only = of([[math.inf]])
    assert only.mean_extremes == (0.0, 0.0) and (only.smallest, only.largest) == (math.inf, math.inf)


def test_empty_arrays_change_nothing() -> None:
    assert state(of([[], []])) == state(of([]))
    assert state(of([[], [1.0], []])) == state(of([[1.0]]))


def test_no_histogram_is_kept_unless_asked() -> None:
    found = of([[1.0, -2.0]], counted=False)
    assert found.histogram is None and (found.smallest, found.largest) == (-2.0, 1.0)
