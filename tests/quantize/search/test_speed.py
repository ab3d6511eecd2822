"""The search for the most accurate choice that is fast enough, with figures that are made up."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebig.quantize.search import Found, search_by_speed

GROUPS = st.lists(st.tuples(st.floats(0.01, 0.06), st.floats(0.001, 0.1)), min_size=1, max_size=14)


class Model:
    """Takes a second in float; each quantized group saves its gain and adds its loss, each border costs.

    A border is between a quantized group and a float one; where ``shared`` a tensor between two groups is rounded as
    long as one of them is quantized, which adds that much beside.
    """

    def __init__(
        self, gains: Mapping[str, float], losses: Mapping[str, float], border: float = 0.0, shared: float = 0.0
    ) -> None:
        self.gains, self.losses, self.border, self.shared = gains, losses, border, shared
        self.timed: list[dict[str, str]] = []

    def speed(self, choice: Mapping[str, str]) -> float:
        self.timed.append(dict(choice))
        saved = math.fsum(self.gains[g] for g in choice)
        borders = sum((a in choice) != (b in choice) for a, b in self._pairs())
        return 1 / (1 - saved + self.border * borders)

    def loss(self, choice: Mapping[str, str]) -> float:
        rounded = sum(a in choice or b in choice for a, b in self._pairs())
        return math.fsum(self.losses[g] for g in choice) + self.shared * rounded

    def added(self, choice: Mapping[str, str], group: str) -> float:
        return self.loss(choice) - self.loss({g: f for g, f in choice.items() if g != group})

    def found(self, least: float, deadline: float = math.inf) -> Found:
        return search_by_speed(list(self.gains), "int8", self.added, self.speed, least, deadline=deadline)

    def _pairs(self) -> list[tuple[str, str]]:
        return list(pairwise(self.gains))


@given(GROUPS, st.floats(0, 1))
def test_what_is_found_is_fast_enough_and_was_measured(groups: list[tuple[float, float]], share: float) -> None:
    gains = {f"g{i}": gain for i, (gain, _) in enumerate(groups)}
    model = Model(gains, {f"g{i}": loss for i, (_, loss) in enumerate(groups)})
    everything = dict.fromkeys(gains, "int8")
    least = 1 + share * (model.speed(everything) - 1)
    found = model.found(least)
    assert found.choice and found.choice in model.timed and found.fast and found.finished
    assert found.speed == model.speed(found.choice) >= least
    assert model.loss(found.choice) <= model.loss(everything)
    # all, each group, and for each that was taken itself and its two neighbours; few that were too slow
    assert len(model.timed) <= 2 + len(groups) + 3 * len(groups) + 6 * (len(groups) + 1)


def test_the_worst_for_their_time_stay_float() -> None:
    model = Model({"a": 0.1, "b": 0.1, "c": 0.2, "d": 0.2}, {"a": 0.03, "b": 0.001, "c": 0.04, "d": 0.001})
    found = model.found(1 / (1 - 0.45))
    assert found.choice == dict.fromkeys("bcd", "int8") and found.speed == pytest.approx(2.0)
    assert found.without == pytest.approx({"a": 0.03, "b": 0.001, "c": 0.04, "d": 0.001})
    assert model.found(1 / (1 - 0.28)).choice == dict.fromkeys("bd", "int8")


def test_a_cheap_group_is_taken_where_a_dear_one_is_too_slow() -> None:
    model = Model({"a": 0.3, "b": 0.1, "c": 0.1}, {"a": 0.3, "b": 0.04, "c": 0.001})
    found = model.found(1 / (1 - 0.39))
    assert found.choice == {"a": "int8", "c": "int8"}
    assert {"b": "int8", "c": "int8"} in model.timed  # without a, which would bring most


def test_neighbours_of_a_float_group_come_next() -> None:
    """``c`` alone brings as much as ``b``; behind ``a`` in float, ``b`` takes the tensor between them too."""
    model = Model(dict.fromkeys("abcd", 0.1), {"a": 0.1, "b": 0.02, "c": 0.02, "d": 0.02}, 0.02, shared=0.05)
    assert set(model.found(1 / (1 - 0.28)).choice) == {"b", "c", "d"}
    assert set(model.found(1 / (1 - 0.18)).choice) == {"c", "d"}


def test_groups_that_add_nothing_stay_quantized() -> None:
    found = Model({"a": 0.1, "b": 0.1}, {"a": 0.0, "b": 0.05}).found(1.01)
    assert found.choice == {"a": "int8"} and found.without["a"] == 0


def test_a_speed_out_of_reach_takes_everything() -> None:
    model = Model({"a": 0.1, "b": 0.1}, {"a": 0.1, "b": 0.2})
    found = model.found(3.0)
    assert not found.fast and found.choice == {"a": "int8", "b": "int8"} and len(model.timed) == 1
    assert found.without == {} and found.speed == pytest.approx(1 / 0.8)


def test_the_time_ends_it_with_what_is_known_to_be_fast() -> None:
    model = Model(dict.fromkeys("abcd", 0.1), dict.fromkeys("abcd", 0.1))
    found = model.found(1.2, time.monotonic() - 1)
    assert not found.finished and found.fast and len(found.choice) == 4 and len(model.timed) == 1


def test_one_group_cannot_be_left_out() -> None:
    found = Model({"a": 0.5}, {"a": 0.1}).found(1.1)
    assert found.choice == {"a": "int8"} and found.finished
