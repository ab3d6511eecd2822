"""Simplifies a graph and gives its inputs their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgebig.calibrate import Range
from edgebig.errors import UsageError
from edgebig.graph import Graph
from edgebig.graph.passes import (
    ExpandQOperators,
    FoldBatchNorm,
    FoldConstants,
    FreezeInputs,
    MakeGemms,
    NameNodes,
    Pass,
    RaiseOpset,
    RaiseToFloat32,
    RemoveNoOps,
    RemoveQuantization,
    SetShapes,
    is_for_tensorrt,
    is_quantized,
    run_passes,
)
from edgebig.recipe import ShapeRange
from edgebig.request import Request
from edgebig.source import Source, SourcePart
from edgebig.spec import Dim
from edgebig.stages import StageNotes
from edgebig.steps.room import Room
from edgebig.steps.shapes import choose_profiles
from edgebig.steps.work import PartWork, Sample

_OPSET = {"int8": 19, "fp8": 19, "int8-weights": 19, "int4": 21, "nvfp4": 23, "bf16": 22, "auto": 19}
"""Q/DQ of FP16 tensors and FP8 need opset 19, blocks 21, most operators in BF16 22, FLOAT4E2M1 23."""


_QUANTIZING = {"int8", "fp8", "int4", "int8-weights", "nvfp4", "auto"}


def prepare_graph(part: SourcePart, source: Source, request: Request, notes: StageNotes) -> PartWork:
    """Freezes, shapes and simplifies; the result computes in float32."""
    if part is source.parts[0]:
        _check_names(source, request, notes)
    graph = part.graph
    takes = {spec.name: spec.shape for spec in graph.inputs}
    freeze = {name: value for name, value in request.recipe.freeze.items() if name in takes}
    asked = [{n: shape for n, shape in one.items() if n in takes} for one in request.recipe.shape_sets]
    shapes = {name: _shape(name, takes[name], wanted) for name, wanted in _joined(asked).items()}
    pinned = {name: shape for name, shape in part.fixed.items() if name not in shapes}
    opset = request.recipe.opset
    if request.target.is_nvidia:
        opset = max(opset, _OPSET.get(request.recipe.precision, 0))
        if request.recipe.precision == "fp16" and is_quantized(graph):
            opset = max(opset, _OPSET["int8"])
    removal = RemoveQuantization()
    is_float_again = _must_be_float(graph, request)
    make_float: list[Pass] = [ExpandQOperators(), removal] if is_float_again else []
    stays = not (freeze or pinned or shapes) and _stays_as_it_came(graph, request)
    passes: list[Pass] = [
        SetShapes({**pinned, **shapes}),
        FreezeInputs(freeze),
        RaiseOpset(opset),
        *make_float,
        RaiseToFloat32(),
        *([] if stays else simplifying(request)),
        NameNodes(),
    ]
    before = len(graph.nodes())
    frozen = _frozen_values(takes, {spec.name: spec.dtype for spec in graph.inputs}, freeze, shapes)
    reports = run_passes(graph, passes)
    for report in reports:
        prefix = "" if len(source.parts) == 1 else f"{part.name}: "
        if report.changed:
            notes.note(f"{prefix}{report.name}: {', '.join(report.changed)}")
        notes.decline(*(f"{prefix}{report.name}: {line}" for line in report.declined))
    notes.note(f"{part.name}: {before} nodes became {len(graph.nodes())}, opset {graph.opset}")
    left = [{name: shape for name, shape in one.items() if name not in freeze} for one in asked]
    room = Room.of(graph, request)
    is_host = request.target.engine == "host"
    first, *more = choose_profiles(part, graph, left, notes, room=room, best_only=is_host)
    work = PartWork(part, graph, first, tuple(more), {**part.given, **frozen}, stays_as_it_came=stays)
    work.is_unchanged = stays and not any(report.changed for report in reports)
    if stays:
        notes.note(f"{part.name}: came quantized as TensorRT takes it, and stays as it is")
    if is_float_again:
        work.own_ranges = {name: Range(*ends) for name, ends in removal.ranges.items()}
        notes.note(
            f"{part.name}: came quantized, and computes in float again; {len(removal.ranges)} tensors had scales"
        )
        if request.recipe.precision not in _QUANTIZING:
            how = ", by its own scales" if removal.ranges else " (with --calib: it holds no scales of activations)"
            notes.decline(
                f"{part.name}: TensorRT does not take its quantized operators: it computes in "
                f"{request.recipe.precision}: --precision int8 quantizes it anew{how}"
            )
    return work


def simplifying(request: Request) -> list[Pass]:
    """The passes that make a graph smaller and leave what it computes."""
    # TensorRT takes both forms of a Gemm, and names of layers that people know from the model should stay
    return [FoldBatchNorm(), FoldConstants(), RemoveNoOps(), *([] if request.target.is_nvidia else [MakeGemms()])]


def _stays_as_it_came(graph: Graph, request: Request) -> bool:
    """Whether an engine is built of a graph's own Q/DQ pairs: whoever placed them knew why they stand there.

    Only where the builder is at hand, which says whether it takes the graph; and not where a branch has to go.
    """
    is_asked = request.target.engine == "ahead" and request.recipe.precision == "fp32"
    has_branches = any(node.op_type in {"If", "Loop", "Scan"} for node in graph.nodes())
    return is_asked and not has_branches and is_quantized(graph) and is_for_tensorrt(graph)


def _must_be_float(graph: Graph, request: Request) -> bool:
    """Whether a graph that came quantized is made float: to be quantized anew, or since TensorRT refuses it."""
    if not is_quantized(graph):
        return False
    return request.recipe.precision in _QUANTIZING or (request.target.is_nvidia and not is_for_tensorrt(graph))


def _joined(sets: Sequence[Mapping[str, ShapeRange]]) -> dict[str, ShapeRange]:
    """What the graph must take to serve every set: for the inputs that all of them name, the range over all."""
    first, *more = sets
    joined = {}
    for name, shape in first.items():
        if all(name in one for one in more):
            others = [one[name] for one in more]
            if any(len(other.min) != len(shape.min) for other in others):
                raise UsageError(f"shapes: {name} has one number of axes, found several in its sets of shapes")
            low = tuple(map(min, zip(*(s.min for s in (shape, *others)), strict=True)))
            high = tuple(map(max, zip(*(s.max for s in (shape, *others)), strict=True)))
            joined[name] = ShapeRange(min=low, opt=shape.opt, max=high)
    return joined


def _check_names(source: Source, request: Request, notes: StageNotes) -> None:
    known = [name for part in source.parts for name in (*(spec.name for spec in part.graph.inputs), *part.given)]
    shaped = dict.fromkeys(name for one in request.recipe.shape_sets for name in one)
    named = [("--shapes", name) for name in shaped] + [("--freeze", n) for n in request.recipe.freeze]
    named += [("state", name) for name in request.recipe.state]
    for option, name in named:
        if name in known:
            continue
        if name in request.insisted:
            raise UsageError(
                f"{option}: the model has no input {name!r}: its inputs are {', '.join(dict.fromkeys(known))}"
            )
        notes.decline(f"the recipe's {name!r} is passed over: the model has no such input")


def _frozen_values(
    takes: Mapping[str, tuple[Dim, ...]],
    dtypes: Mapping[str, str],
    freeze: Mapping[str, int | float | bool],
    shapes: Mapping[str, tuple[Dim, ...]],
) -> Sample:
    """What runs of the original must be given for the inputs that became constants."""
    values: Sample = {}
    for name, value in freeze.items():
        sizes = [d if isinstance(d, int) else 1 for d in shapes.get(name, takes[name])]
        values[name] = np.full(sizes, value).astype(dtypes[name])
    return values


def _shape(name: str, old: tuple[Dim, ...], wanted: ShapeRange) -> tuple[Dim, ...]:
    """Sizes where the range has only one, else the axis stays dynamic under its own or a new name."""
    if len(wanted.min) != len(old):
        raise UsageError(
            f"shapes: {name} has {len(old)} axes ({'x'.join(str(d or '?') for d in old)}), found {len(wanted.min)}"
        )
    dims: list[Dim] = []
    for index, (dim, low, high) in enumerate(zip(old, wanted.min, wanted.max, strict=True)):
        if low == high:
            dims.append(low)
        elif isinstance(dim, int):
            raise UsageError(
                f"shapes: axis {index} of {name} has the fixed size {dim}, found the range {low} to {high}"
            )
        else:
            dims.append(dim or f"{name}_{index}")
    return tuple(dims)
