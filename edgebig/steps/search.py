"""``auto``: the fastest plan whose loss stays within the budget, or the most accurate one that is fast enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from edgebig.cache import CacheFile, cache_folder, key_of
from edgebig.errors import AccuracyError
from edgebig.graph import Graph
from edgebig.graph.execute import Level
from edgebig.graph.work import Shapes, macs, observed_shapes
from edgebig.quantize import FLOAT, Plan, PlanFile, insert_qdq, lower_floats, make_plan, planned_layers
from edgebig.quantize.repair.weights import round_weights
from edgebig.quantize.search import (
    Added,
    Found,
    Group,
    Loss,
    Option,
    Speed,
    group_layers,
    measured_gains,
    roofline_gains,
    search,
    search_by_speed,
)
from edgebig.quantize.stem import stem_layers
from edgebig.request import Request
from edgebig.stages import StageNotes
from edgebig.steps.alone import Alone, added_by
from edgebig.steps.loss_cache import known_losses
from edgebig.steps.lower import Layers, low_format, lower_part, reference_level
from edgebig.steps.pays import latencies, say_share, speedup
from edgebig.steps.repair import repairs_for
from edgebig.steps.weights import rounding_of
from edgebig.steps.work import PartWork
from edgebig.steps.yardstick import Yardstick

Array = np.ndarray[Any, Any]

BUDGET = 0.005
"""Loss of cosine that ``auto`` allows where nothing was asked: noise a tenth as large as the worst output (20 dB)."""

_FORMATS = ("int8", "fp8")
_ROUNDING = 1e-6
_TIMING = 1.0
"""Seconds for which a plan is timed where a speed was asked for."""


def search_part(part: PartWork, request: Request, yardstick: Yardstick, notes: StageNotes) -> None:
    """Sets what :func:`edgebig.steps.lower.lower_part` sets, in the fastest precision within the budget.

    Raises:
        AccuracyError: not even float32 stays within it.
    """
    formats = [f for f in _FORMATS if f in request.target.precisions]
    why = f"{request.target.name} has neither INT8 nor FP8"
    if formats and (request.data is None or part.ranges is None):
        why = f"{' and '.join(formats)} was not tried: it needs --calib"
    elif formats:
        why = _quantized(part, request, yardstick, formats, notes)
    if not why:
        return
    notes.decline(f"{part.name}: auto: {why}")
    for precision in ("fp16", "fp32"):
        if precision not in request.target.precisions:
            continue
        lower_part(part, request, precision, Layers(), notes)
        lost = yardstick.loss(part.result(), reference_level(part, request))
        # float32 is what the others are measured against: the last digit alone may differ
        if lost <= max(_budget(request), _ROUNDING if precision == "fp32" else 0.0):
            notes.note(f"{part.name}: auto took {precision}: it loses {lost:.2g}, allowed are {_budget(request):.2g}")
            part.plan = PlanFile.all_float(part.graph, request.target.name, precision, why)
            return
        notes.decline(f"{part.name}: auto: {precision} loses {lost:.2g}, allowed are {_budget(request):.2g}")
    raise AccuracyError(
        f"auto: no precision of {request.target.name} keeps {part.name} within --max-drop {_budget(request):.2g}: "
        "allow more, or give other calibration data"
    )


def _quantized(
    part: PartWork, request: Request, yardstick: Yardstick, formats: Sequence[str], notes: StageNotes
) -> str:
    """Searches and lowers; why the result is not taken, empty where it is within the budget and pays."""
    graph = part.repaired or part.graph
    budget = _budget(request)
    shapes = observed_shapes(graph, part.examples().inputs[0])
    stem = {} if request.target.is_nvidia else stem_layers(graph, shapes)
    layers = [n for n in planned_layers(graph, request.target, request.recipe, formats[0]) if n not in stem]
    groups = {g.name: g for g in group_layers(graph, layers)}
    if not groups:
        return f"nothing in it can be quantized to {' or '.join(formats)}"
    gains = _gains(graph, layers, shapes, request, formats)
    plan_of, level = _planner(part, request, formats[0], groups, stem), _level(request)

    def make(choice: Mapping[str, str]) -> Graph:
        quantized = graph.clone()
        insert_qdq(quantized, plan_of(choice), check=False)
        return quantized

    _choose_method(part, groups, formats[0], lambda choice: yardstick.mean_distance(make(choice), level), notes)

    @cache  # where everything fits at once no group is measured
    def alone() -> Alone:
        return Alone(graph, {g.name: g.layers for g in groups.values()}, plan_of, yardstick, level, shapes)

    def loss(choice: Mapping[str, str]) -> float:
        return yardstick.loss(_surrounded(make(choice), part, request, formats[0]), level)

    def speed(choice: Mapping[str, str]) -> float:
        return speedup(part.graph, make(choice), part.examples().inputs[0], _TIMING)

    @cache  # rounded to nearest, weights would seem to lose more than they will
    def rounded() -> Mapping[str, Array]:
        method = rounding_of(repairs_for(request, formats[0], part.graph))
        plan = plan_of(dict.fromkeys(groups, formats[0]))
        return round_weights(graph, plan, part.samples or (), method=method)

    def added(choice: Mapping[str, str], group: str) -> float:
        less = {name: fmt for name, fmt in choice.items() if name != group}
        quantized = graph.clone()
        insert_qdq(quantized, added_by(plan_of(choice), plan_of(less)), rounded(), check=False)
        return yardstick.mean_distance(quantized, level)

    options = [
        Option(g.name, {f: sum(gains[n][f] for n in g.layers) for f in gains[g.layers[0]]}) for g in groups.values()
    ]
    measures = _Measures(loss, lambda choice: alone().loss(choice), added, speed)
    found = _found(part, request, options, formats, measures, notes)
    chosen = _layers_of(found, groups, formats[0], gains, request, stem)
    _say(part, found, groups, request, notes)
    if not found.choice:
        return f"no layer can be quantized within a loss of {budget:.2g}"
    lower_part(part, request, formats[0], chosen, notes)
    lost = yardstick.loss(part.result(), reference_level(part, request))
    if lost > budget:
        return f"the plan loses {lost:.2g} as it is built, allowed are {budget:.2g}"
    notes.note(
        f"{part.name}: auto quantizes {len(found.choice)} of {len(groups)} groups of layers: it loses {lost:.2g}"
    )
    return _pays(part, request, macs(graph, shapes), notes)


def _gains(
    graph: Graph, layers: Sequence[str], shapes: Shapes, request: Request, formats: Sequence[str]
) -> Mapping[str, Mapping[str, float]]:
    """Seconds that each format saves in each layer: measured, or of the target's figures."""
    target = request.target
    if target.is_nvidia:
        return roofline_gains(graph, layers, shapes, target, formats)
    return {name: {"int8": seconds} for name, seconds in measured_gains(graph, layers, shapes, target).items()}


@dataclass(frozen=True)
class _Measures:
    """What a search measures choices of formats by.

    Attributes:
        loss: what ``--max-drop`` limits.
        alone: the mean distance with a single group quantized.
        added: the mean distance with nothing but what a group of a choice rounds, and others do not.
        speed: times float32's.
    """

    loss: Loss
    alone: Loss
    added: Added
    speed: Speed


def _found(
    part: PartWork,
    request: Request,
    options: Sequence[Option],
    formats: Sequence[str],
    measures: _Measures,
    notes: StageNotes,
) -> Found:
    """Searches by what was asked: a speed, or else a loss."""
    began = time.monotonic()
    minutes, least = request.recipe.search_minutes, request.recipe.min_speedup
    deadline = began + 60 * minutes if minutes is not None else math.inf

    def tick(what: str, step: int, steps: int) -> None:
        passed = time.monotonic() - began
        left = f", about {passed / step * (steps - step):.0f} s left" if step > 1 else ""
        notes.progress(f"{what} ({step + 1} of {steps}{left})")

    if least is not None:
        groups = [o.group for o in options]
        return search_by_speed(groups, formats[0], measures.added, measures.speed, least, deadline=deadline, tick=tick)
    with known_losses(_key(part, request)) as known:
        return search(
            options,
            formats,
            measures.loss,
            _budget(request),
            alone=measures.alone,
            deadline=deadline,
            tick=tick,
            known=known,
        )


def _choose_method(
    part: PartWork,
    groups: Mapping[str, Group],
    fmt: str,
    distance: Callable[[Mapping[str, str]], float],
    notes: StageNotes,
) -> None:
    """Takes the ranges of that method with which the whole model in ``fmt`` stays nearest: none wins everywhere."""
    if len(part.by_method) < 2:
        return
    found = []
    for ranges in part.by_method:
        notes.progress(f"trying {ranges.method} ranges")
        part.ranges = ranges
        found.append((distance(dict.fromkeys(groups, fmt)), ranges))
    part.ranges = min(found, key=lambda pair: pair[0])[1]
    if part.calibration is not None:
        part.calibration |= part.ranges.to_json()
    figures = ", ".join(f"{ranges.method} {lost:.2g}" for lost, ranges in found)
    notes.note(f"{part.name}: auto took {part.ranges.method} ranges; every layer in {fmt} loses with {figures}")


def _planner(
    part: PartWork, request: Request, base: str, groups: Mapping[str, Group], kept: Iterable[str]
) -> Callable[[Mapping[str, str]], Plan]:
    """The function that gives the plan of a choice, for the ranges that the part has when it is called."""
    graph = part.repaired or part.graph
    everything = [*kept, *(name for g in groups.values() for name in g.layers)]

    def plan_of(choice: Mapping[str, str]) -> Plan:
        formats = dict.fromkeys(everything, "float")
        formats |= {name: fmt for group, fmt in choice.items() for name in groups[group].layers}
        return make_plan(graph, part.ranges, request.target, request.recipe, base, formats)

    return plan_of


def _surrounded(graph: Graph, part: PartWork, request: Request, precision: str) -> Graph:
    """The graph with the rest in the format that it will have."""
    low = low_format(request, precision)
    if low is not None:
        lower_floats(graph, low, part.extremes)
    return graph


def _level(request: Request) -> Level:
    return "off" if request.target.is_nvidia else "all"


def _layers_of(
    found: Found,
    groups: Mapping[str, Group],
    base: str,
    gains: Mapping[str, Mapping[str, float]],
    request: Request,
    kept: Mapping[str, str],
) -> Layers:
    """Formats and reasons of all layers that the search decided on."""
    least = request.recipe.min_speedup
    taken = (
        f"within the loss of {_budget(request):.2g} that is allowed"
        if least is None
        else f"quantized for the {least:g} times float32's speed that was asked"
    )
    formats, reasons = dict.fromkeys(kept, FLOAT), dict(kept)
    measured: dict[str, dict[str, float]] = {}
    for name, group in groups.items():
        fmt = found.choice.get(name, "float")
        alone = found.alone.get(name, {})
        for layer in group.layers:
            formats[layer] = fmt
            without = {"drop_added": found.without[name]} if name in found.without else {}
            saved = gains[layer].get(fmt if fmt != "float" else base, 0.0)
            measured[layer] = {"seconds_saved": saved} | {f"drop_alone_{f}": v for f, v in alone.items()} | without
            reasons[layer] = _float_reason(found, name, request) if fmt == FLOAT else taken
    return Layers(formats, reasons, measured)


def _float_reason(found: Found, group: str, request: Request) -> str:
    if group in found.without:
        return f"left in float by the search: what it adds loses {found.without[group]:.2g}, and the speed allows it"
    alone = found.alone.get(group)
    if not alone:
        return "left in float by the search: the time was over before it was measured"
    least = min(alone.values())
    return f"left in float by the search: alone it loses {least:.2g} on average, {_budget(request):.2g} are allowed"


def _say(part: PartWork, found: Found, groups: Mapping[str, Group], request: Request, notes: StageNotes) -> None:
    single = len(found.alone or found.without)
    notes.note(f"{part.name}: auto measured {len(found.trials)} plans and {single} of {len(groups)} groups alone")
    least = request.recipe.min_speedup
    if not found.fast:
        notes.decline(
            f"{part.name}: auto: --min-speedup {least:g} was not reached with every layer in INT8, which was taken"
        )
    if not found.finished:
        minutes = request.recipe.search_minutes
        notes.decline(f"{part.name}: auto: --search-minutes {minutes:g} were over: the best plan so far was taken")


def _budget(request: Request) -> float:
    """The loss that is allowed: any, where only a speed was asked for."""
    if request.recipe.max_drop is not None:
        return request.recipe.max_drop
    return BUDGET if request.recipe.min_speedup is None else math.inf


def _pays(
    part: PartWork,
    request: Request,
    work: Mapping[str, int],
    notes: StageNotes,
) -> str:
    """Why the quantized model is not worth it; empty where it is faster, or cannot be measured here."""
    say_share(part, work, notes)
    if request.target.is_nvidia:
        return ""
    plain, quantized = latencies([part.graph, part.result()], part.examples().inputs[0])
    smaller = part.result().weight_bytes < part.graph.weight_bytes
    ratio = plain / quantized
    notes.note(f"{part.name}: auto: {ratio:.2f} times float32's speed on this processor, measured")
    if ratio >= 1:
        return ""
    what = "smaller, but slower" if smaller else "neither smaller nor faster"
    return f"the quantized model is {what} ({ratio:.2f} times float32's speed): not taken"


def _key(part: PartWork, request: Request) -> CacheFile | None:
    """Where losses of single groups are kept, so that an interrupted search goes on."""
    folder = cache_folder()
    if folder is None or part.ranges is None:
        return None
    graph = part.repaired or part.graph
    inputs = [array.tobytes() for sample in part.examples().inputs for array in sample.values()]
    ranges = repr(sorted((n, r.min, r.max) for n, r in part.ranges.by_tensor.items()))
    kept = repr(request.recipe.keep_float)
    name = key_of(["mean distances", graph.digest(), *inputs, ranges, request.target.name, kept])
    return CacheFile(folder / "search", f"{name}.json")
