"""Similarity against values worked out by hand and against float64 NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgebig.similarity import Similarity, compare

WORST = Similarity(0.0, -math.inf, math.inf, math.inf)
EXACT = (1.0, math.inf, 0.0, 0.0)


def figures(a: object, b: object, dtype: type = np.float32) -> tuple[float, float, float, float]:
    found = compare(np.asarray(a, dtype), np.asarray(b, dtype))
    return found.cosine, found.sqnr_db, found.max_abs, found.max_relative


def test_values_worked_out_by_hand() -> None:
    assert figures([3, 4], [4, 3]) == (pytest.approx(0.96), pytest.approx(10 * math.log10(25 / 2)), 1, 0.25)
    assert figures([1, 0], [0, 1]) == (0, pytest.approx(10 * math.log10(1 / 2)), 1, 1)
    assert figures([2, 0], [-2, 0]) == (-1, pytest.approx(10 * math.log10(1 / 4)), 4, 2)
    assert figures([10, 0], [9, 0]) == (1, pytest.approx(20), 1, pytest.approx(0.1))


@pytest.mark.parametrize("same", [[[1, 2], [3, 4]], [0, 0], [], [np.nan, 1], [np.inf, -np.inf, 2], [np.nan]])
def test_equal_arrays(same: list[float]) -> None:
    assert figures(same, same) == pytest.approx(EXACT)


@pytest.mark.parametrize(
    ("a", "b"),
    [([1, 2], [1, np.nan]), ([np.nan, 2], [1, 2]), ([1, np.inf], [1, 2]), ([np.inf], [-np.inf]), ([1], [np.inf])],
)
def test_what_only_one_of_them_has_is_the_worst(a: list[float], b: list[float]) -> None:
    assert compare(np.array(a), np.array(b)) == WORST


def test_zeros_that_became_something_and_something_that_became_zeros() -> None:
    assert figures([0, 0], [1, 0]) == (0, -math.inf, 1, math.inf)
    assert figures([1, 0], [0, 0]) == (0, 0, 1, 1)


def test_low_formats_and_integers_are_compared_in_float64() -> None:
    assert figures([60000, 60000], [60000, 59968], np.float16)[2] == 32
    assert figures([2**40, 1], [2**40, 2], np.int64)[2] == 1
    assert figures([True, False], [True, True], np.bool_)[2] == 1
    assert figures([200, 0], [0, 200], np.uint8)[2] == 200


ARRAYS = hnp.arrays(np.float32, 8, elements=st.floats(-1e5, 1e5, width=32, allow_subnormal=False))


@settings(deadline=None)
@given(ARRAYS, ARRAYS)
def test_figures_are_numpys(a: np.ndarray, b: np.ndarray) -> None:
    found = compare(a, b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    assert -1 - 1e-9 <= found.cosine <= 1
    assert found.max_abs == np.abs(x - y).max()
    if np.linalg.norm(x) > 1e-12 and np.linalg.norm(y) > 1e-12:
        assert found.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-9)
        assert found.max_relative == pytest.approx(np.abs(x - y).max() / np.abs(x).max())
    mirrored = compare(b, a)
    assert mirrored.cosine == pytest.approx(found.cosine, abs=1e-12) and mirrored.max_abs == found.max_abs


def test_the_worst_takes_each_figure_by_itself() -> None:
    several = [Similarity(0.9, 10, 1, 0.5), Similarity(0.99, 5, 3, 0.1)]
    assert Similarity.worst(iter(several)) == Similarity(0.9, 5, 3, 0.5)
    assert several[0].to_json() == {"cosine": 0.9, "sqnr_db": 10, "max_abs": 1, "max_relative": 0.5}
