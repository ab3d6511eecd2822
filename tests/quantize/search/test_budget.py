"""The search over groups, with losses that are made up: nothing here knows a graph."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebig.quantize.search import Option, search
from edgebig.quantize.search.budget import Choice

Table = dict[str, dict[str, float]]

GAINS = st.floats(1e-9, 1e-3)
LOSSES = st.floats(0, 0.1)
GROUP = st.tuples(
    st.fixed_dictionaries({"int8": GAINS, "fp8": GAINS}), st.fixed_dictionaries({"int8": LOSSES, "fp8": LOSSES})
)


class Additive:
    """Losses that add up, and what was measured."""

    def __init__(self, losses: Table) -> None:
        self.losses = losses
        self.asked: list[dict[str, str]] = []

    def __call__(self, choice: Choice) -> float:
        self.asked.append(dict(choice))
        return math.fsum(self.losses[g][f] for g, f in choice.items())


def gain(options: list[Option], choice: Mapping[str, str]) -> float:
    return math.fsum(o.gains[choice[o.group]] for o in options if o.group in choice)


def best_in_order(options: list[Option], losses: Table, budget: float, fmt: str) -> float:
    """Leaves the groups out one by one, those first that lose most for what they gain, until the rest fits."""
    left = sorted(options, key=lambda o: -losses[o.group][fmt] / o.gains[fmt])
    while left and math.fsum(losses[o.group][fmt] for o in left) > budget:
        left.pop(0)
    return math.fsum(o.gains[fmt] for o in left)


@given(st.lists(GROUP, min_size=1, max_size=14), st.floats(0, 0.5))
def test_additive_losses(groups: list[tuple[dict[str, float], dict[str, float]]], budget: float) -> None:
    options = [Option(f"g{i}", {"int8": g["int8"]}) for i, (g, _) in enumerate(groups)]
    losses = {f"g{i}": row for i, (_, row) in enumerate(groups)}
    loss = Additive(losses)
    found = search(options, ["int8"], loss, budget)
    assert found.loss <= budget and found.finished
    assert found.loss == (loss(found.choice) if found.choice else 0.0)
    assert gain(options, found.choice) >= best_in_order(options, losses, budget, "int8") * (1 - 1e-9)
    # each trial is a whole plan that was measured, and the result is one of them
    assert not found.choice or any(t.choice == found.choice and t.loss == found.loss for t in found.trials)
    assert all(gain(options, t.choice) <= gain(options, found.choice) for t in found.trials if t.loss <= budget)


@given(st.lists(GROUP, min_size=1, max_size=10), st.floats(0, 0.5))
def test_two_formats_mixed(groups: list[tuple[dict[str, float], dict[str, float]]], budget: float) -> None:
    options = [Option(f"g{i}", g) for i, (g, _) in enumerate(groups)]
    loss = Additive({f"g{i}": row for i, (_, row) in enumerate(groups)})
    found = search(options, ["int8", "fp8"], loss, budget)
    assert found.loss <= budget and set(found.choice.values()) <= {"int8", "fp8"}
    assert found.loss == (loss(found.choice) if found.choice else 0.0)


def test_each_group_gets_the_format_that_loses_least_for_its_gain() -> None:
    options = [Option("a", {"int8": 2.0, "fp8": 1.0}), Option("b", {"int8": 2.0, "fp8": 1.9})]
    loss = Additive({"a": {"int8": 0.01, "fp8": 0.2}, "b": {"int8": 0.2, "fp8": 0.01}})
    found = search(options, ["int8", "fp8"], loss, 0.05)
    assert found.choice == {"a": "int8", "b": "fp8"} and found.loss == pytest.approx(0.02)


def test_where_everything_fits_one_trial_suffices() -> None:
    options = [Option(f"g{i}", {"int8": 1.0, "fp8": 1.0}) for i in range(20)]
    loss = Additive({o.group: {"int8": 0.001, "fp8": 0.0} for o in options})
    found = search(options, ["int8", "fp8"], loss, 0.05)
    assert len(loss.asked) == len(found.trials) == 1 and found.alone == {}
    assert found.choice == {o.group: "int8" for o in options} and found.loss == pytest.approx(0.02)


def test_a_few_bad_groups_of_many_cost_few_measurements() -> None:
    options = [Option(f"g{i}", {"int8": 1.0}) for i in range(32)]
    losses = {o.group: {"int8": 1e-4} for o in options} | {"g7": {"int8": 0.5}, "g21": {"int8": 0.3}}
    loss = Additive(losses)
    found = search(options, ["int8"], loss, 0.01)
    assert sorted(set(losses) - set(found.choice)) == ["g21", "g7"]
    assert len(found.trials) <= 1 + 6 + 2  # all, the bisection of 32, and both bad groups once more
    assert len(loss.asked) == len(found.trials) + 32


def test_known_losses_are_not_measured_again() -> None:
    options = [Option(f"g{i}", {"int8": 1.0, "fp8": 0.5}) for i in range(6)]
    losses = {o.group: {"int8": 0.1, "fp8": 0.02} for o in options}
    known: Table = {"g0": {"int8": 0.1}, "g3": {"int8": 0.1, "fp8": 0.02}}
    first = Additive(losses)
    found = search(options, ["int8", "fp8"], lambda c: 1.0, 0.01, alone=first, known=known)
    assert found.choice == {} and found.loss == 0.0
    assert len(first.asked) == 12 - 3 and {"g0": "int8"} not in first.asked and known == losses
    second = Additive(losses)
    again = search(options, ["int8", "fp8"], Additive(losses), 0.15, alone=second, known=known)
    assert second.asked == [] and again.alone == losses


def test_an_interrupt_leaves_what_was_measured() -> None:
    options = [Option(f"g{i}", {"int8": 1.0}) for i in range(6)]
    known: Table = {}

    def alone(choice: Choice) -> float:
        if "g4" in choice:
            raise KeyboardInterrupt
        return 0.1

    with pytest.raises(KeyboardInterrupt):
        search(options, ["int8"], lambda c: 1.0, 0.01, alone=alone, known=known)
    assert known == {f"g{i}": {"int8": 0.1} for i in range(4)}


def test_the_time_ends_the_search_with_the_best_so_far() -> None:
    options = [Option(f"g{i}", {"int8": 1.0}) for i in range(8)]
    loss = Additive({o.group: {"int8": 0.01} for o in options})
    over = search(options, ["int8"], loss, 0.05, deadline=time.monotonic() - 1)
    assert not over.finished and over.choice == {} and len(loss.asked) == 1  # every layer at once, no more
    fits = search(options, ["int8"], loss, 0.5, deadline=time.monotonic() - 1)
    assert fits.finished and len(fits.choice) == 8

    slow = Additive(loss.losses)
    began = time.monotonic()

    def waiting(choice: Choice) -> float:
        time.sleep(0.02)
        return slow(choice)

    found = search(options, ["int8"], waiting, 0.05, deadline=began + 0.1)
    assert not found.finished and time.monotonic() - began < 0.2
    assert 0 < len(found.alone) < 8 and found.loss <= 0.05


def test_a_deadline_after_the_groups_were_measured() -> None:
    """Groups alone are known: the bisection's first trials already bring a plan."""
    options = [Option(f"g{i}", {"int8": 1.0}) for i in range(8)]
    losses = {o.group: {"int8": 0.01} for o in options}
    now, clock = time.monotonic(), [0]

    def loss(choice: Choice) -> float:
        clock[0] += 1
        if clock[0] == 2:  # the first half of the groups
            time.sleep(0.06)
        return sum(losses[g][f] for g, f in choice.items())

    found = search(options, ["int8"], loss, 0.045, deadline=now + 0.05, known=losses)
    assert not found.finished and len(found.choice) == 4 and found.loss == pytest.approx(0.04)


def test_infinite_losses_stay_out() -> None:
    options = [Option(n, {"int8": 1.0}) for n in "abc"]
    table = {"a": {"int8": math.inf}, "b": {"int8": 0.001}, "c": {"int8": 0.001}}
    found = search(options, ["int8"], Additive(table), 0.01)
    assert found.choice == {"b": "int8", "c": "int8"} and found.alone["a"]["int8"] == math.inf
    nothing = search(options, ["int8"], lambda choice: math.inf, 0.01)
    assert nothing.choice == {} and nothing.loss == 0.0 and nothing.finished


def test_losses_that_make_each_other_good() -> None:
    """Two groups whose errors cancel: a plan is taken only where it was measured within the budget."""
    options = [Option(n, {"int8": 1.0}) for n in "abcd"]

    def loss(choice: Choice) -> float:
        return 0.001 * len(choice) + 0.5 * abs(("a" in choice) - ("b" in choice)) + 0.3 * ("c" in choice)

    found = search(options, ["int8"], loss, 0.01)
    assert found.loss == loss(found.choice) <= 0.01
    assert "c" not in found.choice and "d" in found.choice
    assert ("a" in found.choice) == ("b" in found.choice)


def test_a_group_that_was_left_out_is_tried_once_more() -> None:
    """``b`` stands behind ``a`` in the order, but fits where ``a`` does not."""
    options = [Option("a", {"int8": 3.0}), Option("b", {"int8": 1.0}), Option("c", {"int8": 1.0})]
    table = {"a": {"int8": 0.03}, "b": {"int8": 0.009}, "c": {"int8": 0.001}}
    loss = Additive(table)
    found = search(options, ["int8"], loss, 0.0105)
    assert found.choice == {"b": "int8", "c": "int8"}
    assert {"c": "int8", "b": "int8", "a": "int8"} in loss.asked


def test_groups_are_ordered_by_another_measure_where_the_loss_is_coarse() -> None:
    """A count of right answers does not change for a group alone; their distance does."""
    options = [Option(n, {"int8": 1.0}) for n in "abcd"]
    fine = Additive({n: {"int8": v} for n, v in zip("abcd", (0.1, 0.4, 0.2, 0.3), strict=True)})

    def answers(choice: Choice) -> float:
        return float(sum(fine.losses[g]["int8"] for g in choice) > 0.35)

    found = search(options, ["int8"], answers, 0.5, alone=fine)
    assert found.choice == {"a": "int8", "c": "int8"} and found.loss == 0.0
    assert all(len(c) == 1 for c in fine.asked)


def test_what_is_told_of_the_progress() -> None:
    options = [Option(n, {"int8": 1.0}) for n in "ab"]
    told: list[tuple[str, int, int]] = []
    table = {"a": {"int8": 0.1}, "b": {"int8": 0.0}}
    search(options, ["int8"], Additive(table), 0.05, tick=lambda *line: told.append(line))
    assert told[:3] == [("every layer in int8", 0, 1), ("a alone in int8", 0, 2), ("b alone in int8", 1, 2)]
    assert all(0 <= step < steps for _, step, steps in told) and told[-1][0] == "a once more"


def test_no_groups() -> None:
    found = search([], ["int8"], lambda choice: 0.0, 0.01)
    assert found.choice == {} and found.finished and found.alone == {}
