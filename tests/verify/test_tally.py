"""A tally of pieces is the comparison of the whole; masks do not drown the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgebig.similarity import compare
from edgebig.verify.tally import Tally

NUMBERS = st.floats(-1e6, 1e6, width=32)


@given(arrays(np.float32, (4, 6), elements=NUMBERS), arrays(np.float32, (4, 6), elements=NUMBERS))
def test_pieces_add_up_to_the_whole(expected: np.ndarray, found: np.ndarray) -> None:
    tally = Tally()
    for a, b in zip(expected, found, strict=True):
        tally.add(a, b)
    one, whole = tally.similarity(), compare(expected, found)
    assert one.max_abs == whole.max_abs and one.max_relative == whole.max_relative
    assert one.cosine == pytest.approx(whole.cosine, abs=1e-9)
    assert one.sqnr_db == pytest.approx(whole.sqnr_db, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_breaks_it(bad: float) -> None:
    tally = Tally()
    tally.add(np.ones(3), np.array([1, bad, 1]))
    assert tally.is_broken and tally.noise_ratio == math.inf and tally.similarity().cosine == 0
    both = Tally()
    both.add(np.array([1, bad]), np.array([1, bad]))
    assert not both.is_broken and both.sqnr_db == math.inf


def test_masks_of_other_sizes_are_left_out() -> None:
    tally = Tally()
    lowest = float(np.finfo(np.float32).min)
    tally.add(np.array([lowest, -np.inf, 3.0, 4.0]), np.array([-30000.0, -65504.0, 3.0, 3.0]))
    assert not tally.is_broken and tally.noise_ratio == pytest.approx(1 / 25)
    lost = Tally()
    lost.add(np.array([lowest, 3.0]), np.array([0.0, 3.0]))
    assert lost.noise_ratio == pytest.approx(1)
