"""Makes the plan: the rules of each kind of target."""

from __future__ import annotations

from edgebig.calibrate.ranges import Range, Ranges
from edgebig.errors import CalibrationError, PrecisionError
from edgebig.graph import Graph
from edgebig.graph.values import float_activations
from edgebig.quantize import rules_cpu, rules_tensorrt, rules_weights
from edgebig.quantize.formats import FP8, INT8
from edgebig.quantize.plan import Plan
from edgebig.recipe import Recipe
from edgebig.target import Target

CALIBRATED = frozenset({"int8", "fp8"})
"""Precisions that need the ranges of activations."""

INT4_BLOCK = 128


def make_plan(graph: Graph, ranges: Ranges | None, target: Target, recipe: Recipe, precision: str) -> Plan:
    """The plan for ``precision`` on ``target``.

    Args:
        graph: a float32 graph whose nodes have unique names.
        ranges: from calibration; not needed for weight-only formats.
        target: whose rules apply.
        recipe: ``keep_float`` names nodes that stay float.
        precision: ``int8``, ``fp8`` or ``int4``; any other gives an empty plan.

    Raises:
        PrecisionError: the target has no such format.
        CalibrationError: ranges are needed and were not given.
    """
    check_precision(target, precision)
    if precision == "int4":
        return rules_weights.make(graph, recipe.keep_float, INT4_BLOCK)
    if precision not in CALIBRATED:
        return Plan()
    if ranges is None:
        raise CalibrationError(f"{precision} needs calibration samples: give --calib")
    if target.is_nvidia:
        return rules_tensorrt.make(graph, ranges, recipe.keep_float, FP8 if precision == "fp8" else INT8)
    return rules_cpu.make(graph, ranges, recipe.keep_float, rules_cpu.weight_format(target.architecture))


def planned_tensors(graph: Graph, target: Target, recipe: Recipe, precision: str) -> list[str]:
    """Names of the activations that a plan would quantize if their ranges allow: those to calibrate."""
    if precision not in CALIBRATED:
        return []
    unit = {name: Range(-1.0, 1.0) for name in observed_tensors(graph)}
    plan = make_plan(graph, Ranges(unit, 1, "", ""), target, recipe, precision)
    return [name for name in unit if name in plan.activations]


def check_precision(target: Target, precision: str) -> None:
    """Refuses a number format that the target lacks.

    Raises:
        PrecisionError: it says which formats the target has.
    """
    if precision != "auto" and precision not in target.precisions:
        raise PrecisionError(
            f"--precision {precision}: {target.name} ({target.description}) has no {precision.upper()}: "
            f"choose one of {', '.join(p for p in target.precisions if p != 'tf32')}"
        )


def observed_tensors(graph: Graph) -> list[str]:
    """Names of the tensors whose ranges a plan or the lowering to FP16 may ask for."""
    return [str(value.name) for value in float_activations(graph)]
