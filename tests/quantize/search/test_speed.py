"""The search for the most accurate choice that is fast enough, with figures that are made up."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebig.quantize.search import search_by_speed

GROUPS = st.lists(st.tuples(st.floats(0.01, 0.06), st.floats(0, 0.1)), min_size=1, max_size=14)


class Model:
    """Takes a second in float; each quantized group saves its gain and adds its loss, each border costs."""

    def __init__(self, gains: Mapping[str, float], losses: Mapping[str, float], border: float = 0.0) -> None:
        self.gains, self.losses, self.border = gains, losses, border
        self.timed: list[dict[str, str]] = []

    def speed(self, choice: Mapping[str, str]) -> float:
        self.timed.append(dict(choice))
        saved = math.fsum(self.gains[g] for g in choice)
        between = [(a in choice) != (b in choice) for a, b in zip(list(self.gains), list(self.gains)[1:], strict=False)]
        return 1 / (1 - saved + self.border * sum(between))

    def loss(self, choice: Mapping[str, str]) -> float:
        return math.fsum(self.losses[g] for g in choice)


def found_in(model: Model, least: float, deadline: float = math.inf):  # type: ignore[no-untyped-def]
    return search_by_speed(list(model.gains), "int8", model.loss, model.speed, least, deadline=deadline)


@given(GROUPS, st.floats(0, 1))
def test_what_is_found_is_fast_enough_and_was_measured(groups: list[tuple[float, float]], share: float) -> None:
    gains = {f"g{i}": gain for i, (gain, _) in enumerate(groups)}
    model = Model(gains, {f"g{i}": loss for i, (_, loss) in enumerate(groups)})
    everything = dict.fromkeys(gains, "int8")
    least = 1 + share * (model.speed(everything) - 1)
    found = found_in(model, least)
    assert found.choice and found.choice in model.timed and found.fast and found.finished
    assert found.speed == model.speed(found.choice) >= least
    assert found.loss == model.loss(found.choice) <= model.loss(everything)
    # everything, each group in float, the bisection of 14 and the retries
    assert len(model.timed) <= 2 + len(groups) + 4 + 6 + 1


def test_the_worst_for_their_time_stay_float() -> None:
    model = Model({"a": 0.1, "b": 0.1, "c": 0.2, "d": 0.2}, {"a": 0.03, "b": 0.001, "c": 0.04, "d": 0.001})
    found = found_in(model, 1 / (1 - 0.45))
    assert found.choice == dict.fromkeys("bcd", "int8") and found.speed == pytest.approx(2.0)
    assert found.without == pytest.approx({"a": 0.03, "b": 0.001, "c": 0.04, "d": 0.001})
    assert found_in(model, 1 / (1 - 0.28)).choice == dict.fromkeys("bd", "int8")


def test_a_cheap_group_behind_a_dear_one_is_tried() -> None:
    model = Model({"a": 0.3, "b": 0.1, "c": 0.1}, {"a": 0.3, "b": 0.04, "c": 0.001})
    assert found_in(model, 1 / (1 - 0.39)).choice == {"a": "int8", "c": "int8"}


def test_borders_between_float_and_int8_count() -> None:
    """``b`` loses as much as ``a``, but its two neighbours convert; both together cost no more borders than one."""
    model = Model(dict.fromkeys("abcd", 0.1), {"a": 0.1, "b": 0.1, "c": 0.01, "d": 0.01}, border=0.02)
    assert set(found_in(model, 1 / (1 - 0.27)).choice) == {"b", "c", "d"}
    assert set(found_in(model, 1 / (1 - 0.17)).choice) == {"c", "d"}


def test_groups_that_help_in_int8_stay_there() -> None:
    """Errors may cancel: a group whose float makes the whole worse is left quantized, whatever time there is."""
    model = Model({"a": 0.1, "b": 0.1}, {"a": -0.01, "b": 0.05})
    found = found_in(model, 1.01)
    assert found.choice == {"a": "int8"} and found.without["a"] == pytest.approx(-0.01)


def test_a_speed_out_of_reach_takes_everything() -> None:
    model = Model({"a": 0.1, "b": 0.1}, {"a": 0.1, "b": 0.2})
    found = found_in(model, 3.0)
    assert not found.fast and found.choice == {"a": "int8", "b": "int8"} and len(model.timed) == 1
    assert found.without == {} and found.speed == pytest.approx(1 / 0.8)


def test_the_time_ends_it_with_what_is_known_to_be_fast() -> None:
    model = Model(dict.fromkeys("abcd", 0.1), dict.fromkeys("abcd", 0.1))
    found = found_in(model, 1.2, time.monotonic() - 1)
    assert not found.finished and found.fast and len(found.choice) == 4 and len(model.timed) == 1


def test_one_group_cannot_be_left_out() -> None:
    found = found_in(Model({"a": 0.5}, {"a": 0.1}), 1.1)
    assert found.choice == {"a": "int8"} and found.finished
