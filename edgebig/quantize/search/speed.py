"""The other search: the most accurate choice that is still as fast as was asked.

Groups stay float in the order of :mod:`edgebig.quantize.search.budget`, those first that lose most for each second that
quantizing them saves. Seconds of single layers do not add up to those of a model (a group in float makes its neighbours
convert), so that the speed of every choice that is taken was measured as a whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from edgebig.quantize.search.budget import Choice, Found, Loss, Option, Tick, Trial, measure_alone, ordered_groups

Speed = Callable[[Choice], float]

_RETRIES = 6
"""Groups behind the last that fitted, each tried once more: a cheap one may fit where a dear one does not."""


def search_by_speed(
    options: Sequence[Option],
    speed: Speed,
    least: float,
    *,
    alone: Loss,
    deadline: float = float("inf"),
    tick: Tick = lambda what, step, steps: None,
    known: dict[str, dict[str, float]] | None = None,
) -> Found:
    """The choice that leaves most of the worst groups in float and is ``least`` times as fast as float.

    Where not even everything quantized is as fast, that is what is found, with ``fast`` unset.

    Args:
        options: the groups; each takes the format that loses least for what it gains.
        speed: measures a choice: how many times float's.
        least: of ``speed``.
        alone: measures the loss of a single group.
        deadline: of ``time.monotonic()``: no new measurement begins after it, and the best so far is taken.
        tick: called with what is measured, how many were, and of how many.
        known: losses of single groups from an earlier search; new ones are added.

    Returns:
        The choice with its ``speed``, at least one group of it quantized. Losses of whole choices were not measured
        and are NaN.
    """
    found = Found({}, math.nan, known if known is not None else {})

    def measured(choice: Choice, what: str, step: int, steps: int) -> bool:
        """Takes the choice if it is fast enough, and says whether it is."""
        tick(what, step, steps)
        times = speed(choice)
        found.trials.append(Trial(dict(choice), math.nan))
        if times >= least:
            found.choice, found.speed = dict(choice), times
        return times >= least

    everything = dict(ordered_groups(options, {}))
    if not measured(everything, "every layer quantized", 0, 1):
        found.fast = False
        found.choice = everything
        return found
    found.finished = measure_alone(options, alone, found.alone, deadline, tick)
    if found.finished:
        ordered = ordered_groups(options, found.alone)
        found.finished = _most_in_float(ordered, measured, deadline, found)
    return found


def _most_in_float(
    ordered: Sequence[tuple[str, str]],
    measured: Callable[[Choice, str, int, int], bool],
    deadline: float,
    found: Found,
) -> bool:
    """Bisects how many of the worst groups may be float, then tries those behind them; whether the time sufficed."""
    low, high = 0, len(ordered) - 1
    steps, step = max(high.bit_length(), 1), 0
    while low < high:
        if time.monotonic() > deadline:
            return False
        middle = (low + high + 1) // 2
        if measured(dict(ordered[middle:]), f"{middle} of {len(ordered)} groups in float", step, steps):
            low = middle
        else:
            high = middle - 1
        step += 1
    for step, (group, _) in enumerate(ordered[low + 1 :][:_RETRIES]):
        if time.monotonic() > deadline:
            return False
        fewer = {name: fmt for name, fmt in found.choice.items() if name != group}
        if fewer:
            measured(fewer, f"{group} in float too", step, _RETRIES)
    return True
