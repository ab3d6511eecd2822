"""Brings a graph into the precision that was asked for."""

from __future__ import annotations

import onnx_ir as ir

from edgebig.errors import AccuracyError
from edgebig.graph.execute import Level
from edgebig.quantize import clamp_masks, insert_qdq, lower_floats, make_plan
from edgebig.request import Request
from edgebig.similarity import Similarity
from edgebig.stages import StageNotes
from edgebig.steps.work import PartWork
from edgebig.verify import outputs_of, similarity_of

_AUTO_COSINE = 0.99
_LOW = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def quantize_part(part: PartWork, request: Request, notes: StageNotes) -> None:
    """Sets ``lowered``, ``precision`` and ``quantized``."""
    if request.recipe.precision == "auto":
        _choose(part, request, notes)
    else:
        _lower(part, request, request.recipe.precision, notes)


def reference_level(part: PartWork, request: Request) -> Level:
    """ONNX Runtime's optimization level for a reference run of the lowered graph."""
    return "off" if part.quantized and request.target.is_nvidia else "all"


def _lower(part: PartWork, request: Request, precision: str, notes: StageNotes) -> None:
    graph = part.graph.clone()
    plan = make_plan(graph, part.ranges, request.target, request.recipe, precision)
    is_nvidia = request.target.is_nvidia
    base = precision if precision in _LOW else "fp16"
    lowers = precision in _LOW or (
        is_nvidia and precision in {"int8", "fp8", "int4"} and "fp16" in request.target.precisions
    )
    if lowers:
        notes.note(*(f"{part.name}: mask constant {line}" for line in clamp_masks(graph)))
    if not plan.is_empty:
        insert_qdq(graph, plan)
        notes.note(f"{part.name}: {', '.join(plan.summary())}")
    elif precision in {"int8", "fp8", "int4"}:
        notes.decline(f"{part.name}: nothing in it can be quantized to {precision}")
    notes.decline(*(f"{part.name}: {line}" for line in plan.skipped))
    if lowers:
        done, kept = lower_floats(graph, _LOW[base], part.extremes)
        notes.note(f"{part.name}: {', '.join(done)}")
        notes.decline(*(f"{part.name}: stays float32: {line}" for line in kept))
    elif plan.is_empty:
        notes.note(f"{part.name}: float32, as it is")
    part.lowered, part.precision, part.quantized = graph, precision, not plan.is_empty


def _choose(part: PartWork, request: Request, notes: StageNotes) -> None:
    """The cheapest whole-model precision that stays near the original on the golden inputs."""
    can_calibrate = request.data is not None and part.ranges is not None
    candidates = [p for p in ("int8", "fp16", "fp32") if p in request.target.precisions]
    for precision in candidates:
        if precision == "int8" and not can_calibrate:
            notes.decline(f"{part.name}: auto: int8 was not tried: it needs --calib")
            continue
        _lower(part, request, precision, notes)
        if precision == "fp32":
            return
        try:
            found = similarity_of(
                part.examined().outputs,
                outputs_of(part.result(), part.examined().inputs, reference_level(part, request)),
            )
        except AccuracyError as error:
            notes.decline(f"{part.name}: auto: {precision} was not taken: {error}")
            continue
        cosine = Similarity.worst(found.values()).cosine
        if cosine >= _AUTO_COSINE:
            notes.note(f"{part.name}: auto took {precision}: cosine {cosine:.5f} to the original")
            return
        notes.decline(f"{part.name}: auto: {precision} was not taken: cosine {cosine:.5f} is below {_AUTO_COSINE}")
    raise AccuracyError(f"auto: no precision of {request.target.name} keeps {part.name} near the original")
