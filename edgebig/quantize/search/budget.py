"""The search itself, over groups of layers; it knows no graph, only what a choice loses and gains.

The loss of each group quantized alone orders the groups by loss for each second gained, as the greedy
solution of a knapsack does (Dantzig 1957, "Discrete-Variable Extremum Problems"; for bit widths of layers
Dong et al. 2020, "HAWQ-V2", section 3). Losses do not simply add, so that every plan that is taken was
measured as a whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Choice = Mapping[str, str]
Loss = Callable[[Choice], float]
Tick = Callable[[str, int, int], None]

_RETRIES = 6
"""Groups that were left out and are tried once more, the most promising ones."""


@dataclass(frozen=True)
class Option:
    """What can be done with a group of layers.

    Attributes:
        group: its name.
        gains: seconds that each format saves over float, by the format's name; those that save nothing count
            for as little as can be.
    """

    group: str
    gains: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """A choice that was measured: the format of every quantized group, the loss, and the speed where that counts."""

    choice: Choice
    loss: float
    speed: float = math.nan


@dataclass
class Found:
    """What the search came to.

    Attributes:
        choice: format of each quantized group; groups that are absent stay float.
        loss: measured, of the whole choice; 0 where nothing is quantized.
        alone: loss of each group with nothing else quantized, by group and format; empty where all groups
            together stayed within the budget at once.
        without: by how much the loss shrinks where a group alone stays float; of a search by speed.
        trials: every whole choice that was measured, in order.
        finished: whether the time sufficed.
        speed: of the choice, times float's; ``None`` where nothing asked for it.
        fast: whether that is as much as was asked.
    """

    choice: dict[str, str]
    loss: float
    alone: dict[str, dict[str, float]] = field(default_factory=dict)
    without: dict[str, float] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    finished: bool = True
    speed: float | None = None
    fast: bool = True


def search(
    options: Sequence[Option],
    formats: Sequence[str],
    loss: Loss,
    budget: float,
    *,
    alone: Loss | None = None,
    deadline: float = float("inf"),
    tick: Tick = lambda what, step, steps: None,
    known: dict[str, dict[str, float]] | None = None,
) -> Found:
    """The choice that gains most within the budget.

    Args:
        options: the groups.
        formats: to try, the fastest first.
        loss: measures a choice; a failure to compute may be given as infinity.
        budget: the largest loss.
        alone: measures a single group, to order them; ``loss`` by default. A count of right answers, say, is too
            coarse for that.
        deadline: of ``time.monotonic()``: no new measurement begins after it, and the best so far is taken.
        tick: called with what is measured, how many were, and of how many.
        known: losses of single groups from an earlier search; new ones are added, so that it can be resumed.
    """
    found = Found({}, 0.0, known if known is not None else {})

    def measured(choice: Choice, what: str, step: int, steps: int) -> float:
        tick(what, step, steps)
        trial = Trial(dict(choice), loss(choice))
        found.trials.append(trial)
        if trial.loss <= budget and _gain(options, choice) > _gain(options, found.choice):
            found.choice, found.loss = dict(choice), trial.loss
        return trial.loss

    for index, fmt in enumerate(formats):
        everything = {o.group: fmt for o in options if fmt in o.gains}
        if measured(everything, f"every layer in {fmt}", index, len(formats)) <= budget:
            return found
    if not _measure_alone(options, alone or loss, found.alone, deadline, tick):
        found.finished = False
    ordered = _ordered(options, found.alone)
    _fewest_left_out(ordered, measured, budget, deadline, found)
    left = [pair for pair in ordered if pair[0] not in found.choice]
    for step, (group, fmt) in enumerate(left[-_RETRIES:][::-1]):
        if time.monotonic() > deadline:
            found.finished = False
            break
        measured({**found.choice, group: fmt}, f"{group} once more", step, min(len(left), _RETRIES))
    return found


def _gain(options: Sequence[Option], choice: Choice) -> float:
    return sum(o.gains[choice[o.group]] for o in options if o.group in choice)


def _measure_alone(
    options: Sequence[Option], loss: Loss, alone: dict[str, dict[str, float]], deadline: float, tick: Tick
) -> bool:
    """Fills in the loss of each group alone; whether there was time for all."""
    wanted = [(o.group, fmt) for o in options for fmt in o.gains if fmt not in alone.get(o.group, {})]
    for step, (group, fmt) in enumerate(wanted):
        if time.monotonic() > deadline:
            return False
        tick(f"{group} alone in {fmt}", step, len(wanted))
        alone.setdefault(group, {})[fmt] = loss({group: fmt})
    return True


def _ordered(options: Sequence[Option], alone: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str]]:
    """Groups with the format that loses least for what it gains, the worst first; unmeasured ones before all."""

    def cost(option: Option, fmt: str) -> float:
        lost = alone.get(option.group, {}).get(fmt, float("inf"))
        return max(lost, 0.0) / max(option.gains[fmt], 1e-12)

    best = [min((cost(o, fmt), fmt, o.group) for fmt in o.gains) for o in options if o.gains]
    return [(group, fmt) for _, fmt, group in sorted(best, reverse=True)]


def _fewest_left_out(
    ordered: Sequence[tuple[str, str]],
    measured: Callable[[Choice, str, int, int], float],
    budget: float,
    deadline: float,
    found: Found,
) -> None:
    """Bisects how many of the worst groups must stay float; a loss that shrinks with each is assumed."""
    low, high = 0, len(ordered)
    steps, step = max(high.bit_length(), 1), 0
    while low < high:
        if time.monotonic() > deadline:
            found.finished = False
            return
        middle = (low + high) // 2
        if measured(dict(ordered[middle:]), f"{middle} of {len(ordered)} groups in float", step, steps) <= budget:
            high = middle
        else:
            low = middle + 1
        step += 1
