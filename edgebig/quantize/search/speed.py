"""The other search: the most accurate choice that is still as fast as was asked.

It begins with everything quantized, and lets groups go back to float one by one, each time the one that brings most
accuracy for what it costs in time (the greedy solution of a knapsack, Dantzig 1957). Both are those of a group within
the choice that it leaves: a tensor that its neighbours round too is rounded without it, and where its neighbours are
float already it brings more and costs less. Only the neighbours of what was taken are measured anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from edgebig.quantize.search.budget import Choice, Found, Tick, Trial

Speed = Callable[[Choice], float]
Added = Callable[[Choice, str], float]

_FAILURES = 6
"""Groups in a row that were too slow in float, after which the search ends."""

_UNCERTAIN = 0.01
"""Of float's time: differences below it are noise, and no group counts as free."""


def search_by_speed(
    groups: Sequence[str],
    fmt: str,
    added: Added,
    speed: Speed,
    least: float,
    *,
    deadline: float = float("inf"),
    tick: Tick = lambda what, step, steps: None,
) -> Found:
    """The choice that loses least among those that are ``least`` times as fast as float, as far as greed finds it.

    Where not even everything quantized is as fast, that is what is found, with ``fast`` unset.

    Args:
        groups: their names, in the graph's order.
        fmt: the format that they are quantized to.
        added: measures the loss that a group of a choice adds to it.
        speed: measures a choice: how many times float's.
        least: of ``speed``.
        deadline: of ``time.monotonic()``: no new measurement begins after it, and the best so far is taken.
        tick: called with what is measured, how many were, and of how many.

    Returns:
        The choice with its ``speed``, at least one group of it quantized. The loss of a whole choice is not measured
        and NaN.
    """
    everything = dict.fromkeys(groups, fmt)
    tick("every layer quantized", 0, 1)
    first = Trial(everything, math.nan, speed(everything))
    found = Found(everything, math.nan, trials=[first], speed=first.speed)
    found.fast = first.speed >= least
    now, costs = first.speed, dict.fromkeys(groups, 0.0)
    stale, failed, failures = list(groups), set[str](), 0
    while found.fast and len(found.choice) > 1 and failures < _FAILURES:
        for step, group in enumerate(stale):
            if time.monotonic() > deadline:
                found.finished = False
                return found
            tick(f"{group} in float", step, len(stale))
            found.without[group] = added(found.choice, group)
            costs[group] = max(1 / speed(_less(found.choice, group)) - 1 / now, _UNCERTAIN)
        stale = []
        left = [g for g in found.choice if g not in failed and found.without[g] > 0]
        if not left:
            break
        if time.monotonic() > deadline:
            found.finished = False
            break
        group = max(left, key=lambda g: found.without[g] / costs[g])
        tick(f"{group} in float too", 0, 1)
        fewer = _less(found.choice, group)
        trial = Trial(fewer, math.nan, speed(fewer))
        found.trials.append(trial)
        if trial.speed < least:
            failed.add(group)
            failures += 1
            continue
        found.choice, found.speed, now, failures = fewer, trial.speed, trial.speed, 0
        place = groups.index(group)
        stale = [g for g in groups[max(place - 1, 0) : place + 2] if g in fewer]
    return found


def _less(choice: Choice, group: str) -> dict[str, str]:
    return {name: fmt for name, fmt in choice.items() if name != group}
