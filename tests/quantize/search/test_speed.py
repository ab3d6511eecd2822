"""The search for the most accurate choice that is fast enough, with figures that are made up."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebig.quantize.search import Option, search_by_speed

GROUPS = st.lists(st.tuples(st.floats(1e-4, 1e-2), st.floats(0, 0.1)), min_size=1, max_size=14)


class Machine:
    """A model that takes a second in float; each quantized group saves its gain, each border costs."""

    def __init__(self, options: list[Option], border: float = 0.0) -> None:
        self.options, self.border = options, border
        self.asked: list[dict[str, str]] = []

    def __call__(self, choice: Mapping[str, str]) -> float:
        self.asked.append(dict(choice))
        saved = math.fsum(o.gains["int8"] for o in self.options if o.group in choice)
        return 1 / (1 - saved + self.border * (len(self.options) - len(choice)))


def alone(losses: Mapping[str, float]):  # type: ignore[no-untyped-def]
    return lambda choice: losses[next(iter(choice))]


@given(GROUPS, st.floats(0, 1))
def test_what_is_found_is_fast_enough_and_was_measured(groups: list[tuple[float, float]], share: float) -> None:
    options = [Option(f"g{i}", {"int8": gain}) for i, (gain, _) in enumerate(groups)]
    losses = {f"g{i}": loss for i, (_, loss) in enumerate(groups)}
    machine = Machine(options)
    least = 1 + share * (machine({o.group: "int8" for o in options}) - 1)
    found = search_by_speed(options, machine, least, alone=alone(losses))
    assert found.choice and found.choice in machine.asked and found.fast and found.finished
    assert found.speed == machine(found.choice) and found.speed >= least
    assert len(found.trials) <= 1 + 4 + 6


def test_the_worst_for_their_time_stay_float() -> None:
    options = [Option(n, {"int8": gain}) for n, gain in zip("abcd", (0.1, 0.1, 0.2, 0.2), strict=True)]
    losses = {"a": 0.03, "b": 0.001, "c": 0.04, "d": 0.001}  # for each second: a 0.3, c 0.2, b 0.01, d 0.005
    found = search_by_speed(options, Machine(options), 1 / (1 - 0.45), alone=alone(losses))
    assert found.choice == dict.fromkeys("bcd", "int8") and found.speed == pytest.approx(2.0)
    found = search_by_speed(options, Machine(options), 1 / (1 - 0.25), alone=alone(losses))
    assert found.choice == dict.fromkeys("bd", "int8")
    assert math.isnan(found.loss) and found.alone["c"] == {"int8": 0.04}


def test_a_cheap_group_behind_a_dear_one_is_tried() -> None:
    options = [Option("a", {"int8": 0.4}), Option("b", {"int8": 0.05}), Option("c", {"int8": 0.1})]
    losses = {"a": 0.4, "b": 0.04, "c": 0.001}
    found = search_by_speed(options, Machine(options), 1 / (1 - 0.49), alone=alone(losses))
    assert found.choice == {"a": "int8", "c": "int8"}


def test_borders_between_float_and_int8_count() -> None:
    """Gains of single layers would allow two groups in float, the whole model's time one."""
    options = [Option(n, {"int8": 0.1}) for n in "abcd"]
    losses = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}
    without = search_by_speed(options, Machine(options), 1 / (1 - 0.19), alone=alone(losses))
    assert set(without.choice) == {"c", "d"}
    found = search_by_speed(options, Machine(options, 0.05), 1 / (1 - 0.19), alone=alone(losses))
    assert set(found.choice) == {"b", "c", "d"}


def test_a_speed_out_of_reach_takes_everything() -> None:
    options = [Option(n, {"int8": 0.1}) for n in "ab"]
    machine = Machine(options)
    found = search_by_speed(options, machine, 3.0, alone=alone({}))
    assert not found.fast and found.choice == {"a": "int8", "b": "int8"} and len(machine.asked) == 1
    assert found.alone == {} and found.speed is None


def test_the_time_ends_it_with_what_is_known_to_be_fast() -> None:
    options = [Option(n, {"int8": 0.1}) for n in "abcd"]
    found = search_by_speed(options, Machine(options), 1.2, alone=alone({}), deadline=time.monotonic() - 1)
    assert not found.finished and len(found.choice) == 4 and found.fast
    known = {n: {"int8": 0.1} for n in "abcd"}
    late = search_by_speed(options, Machine(options), 1.2, alone=alone({}), deadline=time.monotonic() - 1, known=known)
    assert not late.finished and len(late.choice) == 4
