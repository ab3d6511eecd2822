"""Lowers a graph: quantizes the layers that are to be, and brings the rest into FP16 or BF16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from edgebig.graph.execute import Level
from edgebig.graph.passes import is_quantized as has_quantization
from edgebig.quantize import FLOAT, PlanFile, clamp_masks, lower_floats, make_plan
from edgebig.request import Request
from edgebig.stages import StageNotes
from edgebig.steps.repair import repairs_for
from edgebig.steps.weights import quantize_weights
from edgebig.steps.work import PartWork

_LOW = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_QUANTIZED = {"int8", "fp8", "int4", "int8-weights", "nvfp4"}


@dataclass(frozen=True)
class Layers:
    """What single layers are to compute with, beside the precision of the whole.

    Attributes:
        formats: by layer.
        reasons: why, where there is more to say than that the rules take it.
        measured: figures of a search, by layer.
    """

    formats: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def reference_level(part: PartWork, request: Request) -> Level:
    """ONNX Runtime's optimization level for a reference run of the lowered graph."""
    return "off" if part.quantized and request.target.is_nvidia else "all"


def low_format(request: Request, precision: str) -> ir.DataType | None:
    """The format of what is not quantized, where it is not FP32: FP16 around quantized layers on NVIDIA's targets."""
    surrounds = request.target.is_nvidia and precision in _QUANTIZED and "fp16" in request.target.precisions
    return _LOW["fp16"] if surrounds else _LOW.get(precision)


def lower_part(part: PartWork, request: Request, precision: str, layers: Layers, notes: StageNotes) -> None:
    """Sets ``lowered``, ``precision``, ``plan`` and ``quantized``.

    Raises:
        PrecisionError, CalibrationError: the target or the data do not allow it.
    """
    is_quantized = precision in _QUANTIZED or any(fmt != FLOAT for fmt in layers.formats.values())
    graph = (part.repaired if part.repaired is not None and is_quantized else part.graph).clone()
    target = request.target
    plan = make_plan(graph, part.ranges, target, request.recipe, precision, layers.formats, layers.reasons)
    low = low_format(request, precision)
    if low is not None:
        notes.note(*(f"{part.name}: mask constant {line}" for line in clamp_masks(graph)))
    part.exact = None
    rounding: tuple[str, ...] = ()
    if not plan.is_empty:
        rounding = quantize_weights(graph, plan, part, repairs_for(request, precision, part.graph), notes)
        notes.note(f"{part.name}: {', '.join(plan.summary())}", *(f"{part.name}: {line}" for line in rounding))
    elif is_quantized:
        notes.decline(f"{part.name}: nothing in it can be quantized to {precision}")
    notes.decline(*(f"{part.name}: {line}" for line in plan.skipped_lines()))
    part.plan = None
    if is_quantized:
        part.plan = PlanFile.of(
            part.exact or graph,
            plan,
            target.name,
            precision,
            reasons=layers.reasons,
            measured=layers.measured,
            repairs=(*part.repairs, *rounding),
        )
    if low is not None:
        done, kept = lower_floats(graph, low, part.extremes)
        notes.note(f"{part.name}: {', '.join(done)}")
        notes.decline(*(f"{part.name}: stays float32: {line}" for line in kept))
    elif plan.is_empty:
        notes.note(f"{part.name}: {'quantized' if has_quantization(graph) else 'float32'}, as it is")
    part.lowered, part.precision, part.quantized = graph, precision, not plan.is_empty
