"""Makes the plan: the rules of each kind of target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgebig.calibrate.ranges import Range, Ranges
from edgebig.errors import CalibrationError, PrecisionError
from edgebig.graph import Graph
from edgebig.graph.values import float_activations
from edgebig.quantize import rules_cpu, rules_tensorrt, rules_weights
from edgebig.quantize.assignment import FLOAT, LAYER_FORMATS, WEIGHT_ONLY, Assignment
from edgebig.quantize.formats import FP8, INT4, INT8, NVFP4, NVFP4_BLOCK, UINT8, Format, refusal
from edgebig.quantize.plan import Plan
from edgebig.recipe import Recipe
from edgebig.target import Target

CALIBRATED = frozenset({"int8", "fp8"})
"""Precisions that need the ranges of activations."""

INT4_BLOCK = 128


def make_plan(
    graph: Graph,
    ranges: Ranges | None,
    target: Target,
    recipe: Recipe,
    precision: str,
    layers: Mapping[str, str] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> Plan:
    """The plan for ``precision`` on ``target``.

    Args:
        graph: a float32 graph whose nodes have unique names.
        ranges: from calibration; not needed for weight-only formats.
        target: whose rules apply.
        recipe: ``keep_float`` names nodes that stay float.
        precision: one of ``LAYER_FORMATS`` for every layer that can have it; any other quantizes none but those
            in ``layers``.
        layers: formats of single layers by node name, as in ``LAYER_FORMATS``; a layer stays float, with the reason,
            where its block format is not to be had.
        reasons: why a layer was given its format.

    Raises:
        PrecisionError: the target has no such format.
        CalibrationError: ranges are needed and were not given.
    """
    default = precision if precision in LAYER_FORMATS else FLOAT
    check_precision(target, precision)
    assignment = _without_refused(Assignment(default, layers or {}, reasons or {}, recipe.keep_float), target)
    wanted = assignment.formats()
    for asked in sorted(wanted):
        check_precision(target, asked)
    if not wanted:
        return Plan()
    if wanted & CALIBRATED and ranges is None:
        raise CalibrationError(f"{', '.join(sorted(wanted & CALIBRATED))} needs calibration samples: give --calib")
    if ranges is None or not wanted & CALIBRATED:
        plan = Plan()
    elif target.is_nvidia:
        plan = rules_tensorrt.make(graph, ranges, assignment)
    else:
        plan = rules_cpu.make(graph, ranges, assignment, rules_cpu.weight_format(target.architecture))
    for name, fmt, block in (("int4", INT4, INT4_BLOCK), ("int8-weights", INT8, None), ("nvfp4", NVFP4, NVFP4_BLOCK)):
        if name in wanted:
            weights = rules_weights.make(graph, assignment, block, fmt)
            plan.weights += weights.weights
            plan.skipped |= weights.skipped
    if "int8-weights" in wanted and not target.is_nvidia:
        found = rules_cpu.embeddings(graph, assignment, plan)
        plan.embeddings += [name for name in found if name not in plan.embeddings]
    return plan


def _without_refused(assignment: Assignment, target: Target) -> Assignment:
    """Leaves layers in float whose block format is not to be had for the target, with the reason."""
    found = {name: refusal(fmt, target.compute_capability) for name, fmt in assignment.layers.items()}
    reasons = {name: why for name, why in found.items() if why is not None}
    if not reasons:
        return assignment
    layers = {**assignment.layers, **dict.fromkeys(reasons, FLOAT)}
    return replace(assignment, layers=layers, reasons={**assignment.reasons, **reasons})


def planned_tensors(
    graph: Graph, target: Target, recipe: Recipe, precision: str, layers: Mapping[str, str] | None = None
) -> list[str]:
    """Names of the activations that a plan would quantize if their ranges allow: those to calibrate."""
    unit = {name: Range(-1.0, 1.0) for name in observed_tensors(graph)}
    plan = make_plan(graph, Ranges(unit, 1, "", ""), target, recipe, precision, layers)
    return [name for name in unit if name in plan.activations]


def planned_layers(graph: Graph, target: Target, recipe: Recipe, precision: str) -> list[str]:
    """Names of the layers whose weights a plan would quantize if the ranges allow."""
    unit = {name: Range(-1.0, 1.0) for name in observed_tensors(graph)}
    plan = make_plan(graph, Ranges(unit, 1, "", ""), target, recipe, precision)
    return list(dict.fromkeys(w.node for w in plan.weights))


def layer_formats(target: Target, precision: str) -> tuple[Format, Format]:
    """The formats of activations and of weights that ``int8`` or ``fp8`` means on a target."""
    if precision == "fp8":
        return FP8, FP8
    return (INT8, INT8) if target.is_nvidia else (UINT8, rules_cpu.weight_format(target.architecture))


def check_precision(target: Target, precision: str) -> None:
    """Refuses a number format that the target lacks.

    Raises:
        PrecisionError: it says why, and which formats the target has.
    """
    needed = WEIGHT_ONLY.get(precision, precision)
    why = refusal(precision, target.compute_capability)
    if why is not None or (precision != "auto" and needed not in target.precisions):
        name = f"{target.name} ({target.description})"
        what = f": {name} has no {needed.upper()}" if why is None else f" for {name}: {why}"
        raise PrecisionError(f"--precision {precision}{what}: choose one of {', '.join(available_precisions(target))}")


def available_precisions(target: Target) -> tuple[str, ...]:
    """What ``--precision`` takes for a target, ``auto`` left out."""
    floats = [p for p in target.precisions if p not in {"tf32", "fp4"}]
    alone = [name for name, needed in WEIGHT_ONLY.items() if needed in target.precisions and name != needed]
    return (*floats, *(name for name in alone if refusal(name, target.compute_capability) is None))


def observed_tensors(graph: Graph) -> list[str]:
    """Names of the tensors whose ranges a plan or the lowering to FP16 may ask for."""
    return [str(value.name) for value in float_activations(graph)]
