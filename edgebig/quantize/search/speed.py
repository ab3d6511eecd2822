"""The other search: the most accurate choice that is still as fast as was asked.

It begins with everything quantized. What a group gains in loss and costs in time if it alone is left in float is
measured on the whole model, since neither is its own: the next group rounds what it gives, and its neighbours convert.
Groups go back to float in the order of loss for each second (the greedy solution of a knapsack, Dantzig 1957), as many
as the speed allows; the speed of every choice that is taken was measured as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edgebig.quantize.search.budget import Choice, Found, Loss, Tick, Trial

Speed = Callable[[Choice], float]

_RETRIES = 6
"""Groups behind the last that fitted, each tried once more: a cheap one may fit where a dear one does not."""

_UNCERTAIN = 0.002
"""Of float's time: differences below it are noise."""


def search_by_speed(
    groups: Sequence[str],
    fmt: str,
    loss: Loss,
    speed: Speed,
    least: float,
    *,
    deadline: float = float("inf"),
    tick: Tick = lambda what, step, steps: None,
) -> Found:
    """The choice that loses least among those that are ``least`` times as fast as float.

    Where not even everything quantized is as fast, that is what is found, with ``fast`` unset.

    Args:
        groups: their names.
        fmt: the format that they are quantized to.
        loss: measures a choice; it should tell small differences apart.
        speed: measures a choice: how many times float's.
        least: of ``speed``.
        deadline: of ``time.monotonic()``: no new measurement begins after it, and the best so far is taken.
        tick: called with what is measured, how many were, and of how many.

    Returns:
        The choice with its ``loss`` and ``speed``, at least one group of it quantized.
    """
    everything = dict.fromkeys(groups, fmt)
    tick("every layer quantized", 0, 1)
    first = Trial(everything, loss(everything), speed(everything))
    found = Found(everything, first.loss, trials=[first], speed=first.speed)
    if first.speed < least:
        found.fast = False
        return found
    if len(groups) == 1:
        return found
    costs: dict[str, float] = {}
    for step, group in enumerate(groups):
        if time.monotonic() > deadline:
            found.finished = False
            return found
        tick(f"{group} in float", step, len(groups))
        fewer = _less(everything, [group])
        found.without[group] = first.loss - loss(fewer)
        # a difference of two times of the whole model is uncertain: no group counts as free
        costs[group] = max(1 / speed(fewer) - 1 / first.speed, _UNCERTAIN)
    ordered = sorted((g for g, gain in found.without.items() if gain > 0), key=lambda g: -found.without[g] / costs[g])
    found.finished = _most_in_float(ordered, everything, loss, speed, least, deadline, tick, found)
    return found


def _most_in_float(
    ordered: Sequence[str],
    everything: Choice,
    loss: Loss,
    speed: Speed,
    least: float,
    deadline: float,
    tick: Tick,
    found: Found,
) -> bool:
    """Bisects how many of the groups may be float, then tries those behind them; whether the time sufficed."""

    def fits(floats: Sequence[str], what: str, step: int, steps: int) -> bool:
        """Takes the choice if it is fast enough and loses less, and says whether it is fast enough."""
        tick(what, step, steps)
        choice = _less(everything, floats)
        times = speed(choice)
        if times < least:
            return False
        trial = Trial(choice, loss(choice), times)
        found.trials.append(trial)
        if trial.loss < found.loss:
            found.choice, found.loss, found.speed = choice, trial.loss, times
        return True

    low, high = 0, min(len(ordered), len(everything) - 1)
    steps, step = max(high.bit_length(), 1), 0
    while low < high:
        if time.monotonic() > deadline:
            return False
        middle = (low + high + 1) // 2
        if fits(ordered[:middle], f"{middle} of {len(everything)} groups in float", step, steps):
            low = middle
        else:
            high = middle - 1
        step += 1
    taken = list(ordered[:low])
    for step, group in enumerate(ordered[low + 1 :][:_RETRIES]):
        if time.monotonic() > deadline:
            return False
        if len(taken) < len(everything) - 1 and fits([*taken, group], f"{group} in float too", step, _RETRIES):
            taken.append(group)
    return True


def _less(choice: Choice, floats: Sequence[str]) -> dict[str, str]:
    return {group: fmt for group, fmt in choice.items() if group not in floats}
