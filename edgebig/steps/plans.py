"""Plans that were written down: which one is meant for a part, and whether it needs calibration data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgebig.errors import CalibrationError, RecipeError
from edgebig.graph import Graph
from edgebig.quantize import FLOAT, PlanFile
from edgebig.request import Request
from edgebig.steps.work import PartWork

_SUFFIX = ".plan.json"
_OPSETS = {"int4": 21, "nvfp4": 23}
"""ONNX's first opsets whose DequantizeLinear takes scales by block, and FLOAT4E2M1."""


def with_plan(request: Request) -> Request:
    """The request in the precision of its plan, where it has one.

    Raises:
        RecipeError: the plan cannot be read, or another precision was asked for beside it.
    """
    if request.recipe.plan is None:
        return request
    path = Path(request.recipe.plan)
    files = sorted(path.glob(f"*{_SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise RecipeError(f"--plan {path} holds no plan: give a file, or a folder with PART{_SUFFIX} for each part")
    plans = [PlanFile.load(file) for file in files]
    precision = plans[0].precision
    asked = request.recipe.precision
    if asked not in {"fp32", precision}:
        raise RecipeError(f"--plan {path} is for {precision}, and {asked} was asked for: leave --precision out")
    used = {fmt for plan in plans for fmt in plan.formats().values()}
    opset = max(request.recipe.opset, *(_OPSETS.get(fmt, 0) for fmt in (precision, *used)))
    # its scales are those of a graph that was not repaired
    repair = request.recipe.repair if any(plan.repairs for plan in plans) else ()
    return replace(request, recipe=request.recipe.changed(precision=precision, opset=opset, repair=repair))


def plan_of(part: PartWork, request: Request) -> PlanFile | None:
    """The plan that the user gave for this part.

    Raises:
        RecipeError: it cannot be read, is for another target, or names layers that the part lacks.
    """
    if request.recipe.plan is None:
        return None
    path = Path(request.recipe.plan)
    file = path / f"{part.name}{_SUFFIX}" if path.is_dir() else path
    plan = PlanFile.load(file)
    if plan.target != request.target.name:
        raise RecipeError(
            f"the plan {file} is for {plan.target}, and the target is {request.target.name}: "
            "what may be quantized differs; make a plan for this target"
        )
    known = {str(node.name) for node in part.graph.nodes()}
    # a repair may have made layers of its own, which stay float
    owned = [layer for layer in plan.layers if not plan.repairs or layer.format != FLOAT]
    lost = next((layer.node for layer in owned if layer.node not in known), None)
    if lost is not None:
        raise RecipeError(f"the plan {file} names the layer {lost!r}, which {part.name} lacks: was it another model's?")
    repaired = part.repaired if plan.repairs else None
    if plan.repairs and repaired is None:  # a repaired graph has tensors of its own, and it is not there yet
        return plan
    tensors = _tensors(repaired or part.graph)
    lost = next((name for name in plan.activations if name not in tensors), None)
    if lost is not None:
        advice = f" Its repairs were {'; '.join(plan.repairs)}: ask for the same with --repair" if plan.repairs else ""
        raise RecipeError(
            f"the plan {file} names the tensor {lost!r}, which {part.name} lacks: was it another model's?{advice}"
        )
    return plan


def _tensors(graph: Graph) -> set[str]:
    main = graph.model.graph
    return {str(value.name) for value in (*main.inputs, *(v for node in main for v in node.outputs))}


def plan_suffices(part: PartWork, request: Request) -> bool:
    """Whether the part's plan brings every scale, so that it needs no calibration data.

    Raises:
        CalibrationError: it was made for a graph that calibration data repaired.
    """
    plan = plan_of(part, request)
    if plan is not None and plan.repairs:
        raise CalibrationError(
            f"the plan of {part.name} is for a graph that was repaired first ({plan.repairs[0]}): "
            "give --calib with the same data"
        )
    return plan is not None
