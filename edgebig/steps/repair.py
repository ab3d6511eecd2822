"""Repairs the float graph before it is calibrated, so that quantizing it loses less."""

from __future__ import annotations

from collections.abc import Iterable

from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.quantize import clamp_masks, layer_formats, planned_layers
from edgebig.quantize.repair.equalize import channel_magnitudes, equalize
from edgebig.quantize.repair.outliers import split_outliers
from edgebig.quantize.repair.smooth import smooth
from edgebig.recipe import Repair
from edgebig.request import Request
from edgebig.stages import StageNotes
from edgebig.steps.work import PartWork, Sample

_EQUALIZE = 0.7
"""Share of the channels' unevenness that goes into the weights; 0.5 to 1 were tried on SqueezeNet."""

_DEFAULTS: dict[str, tuple[Repair, ...]] = {
    "int8": ("equalize", "outliers", "smooth"),
    "fp8": ("smooth", "gptq"),
    "int4": ("gptq",),
    "nvfp4": ("gptq",),
}
"""What pays for each format on NVIDIA's targets.

FP8 rounds relative to each value, so that outliers cost it little; the error of its weights, more than half of all
with three bits of mantissa, is what GPTQ lessens. INT8 rounds relative to the largest value: without outliers, GPTQ
brings it a tenth of its error at several times the compile's duration.
"""

_CPU: dict[str, tuple[Repair, ...]] = {
    "int8": ("equalize", "smooth"),
    "auto": ("equalize", "outliers", "smooth"),
    "int4": ("gptq",),
}
"""The same for CPUs. A split is three more nodes, whose time shows there: it must save a layer from staying float."""

_MAPS = {"Conv", "ConvTranspose"}
_WEIGHTED = {*_MAPS, "MatMul", "Gemm", "LSTM", "GRU", "RNN"}
_SMALL = 1 << 22
"""Elements of all convolutions' weights up to which adaptive rounding takes seconds, a minute with large pictures."""


def repairs_for(request: Request, precision: str, graph: Graph) -> tuple[Repair, ...]:
    """The repairs that were asked for, or those that suit the format and the graph."""
    if request.recipe.repair is not None:
        return request.recipe.repair
    table = _DEFAULTS if request.target.is_nvidia else _CPU
    is_searched = request.recipe.precision == "auto" and precision == "int8" and not request.target.is_nvidia
    found = table.get("auto" if is_searched else precision, ())
    return (*found, "adaround") if precision == "int8" and 0 < _convolutional_weights(graph) <= _SMALL else found


def _convolutional_weights(graph: Graph) -> int:
    """Elements of the weights of all convolutions; 0 where most weights are of other layers."""
    sizes = {"Conv": 0, "other": 0}
    for node in graph.model.graph:
        tensor = constant(node.inputs[1]) if node.op_type in _WEIGHTED and len(node.inputs) > 1 else None
        if tensor is not None and not node.domain:
            sizes["Conv" if node.op_type in _MAPS else "other"] += tensor.size
    return sizes["Conv"] if sizes["Conv"] > sizes["other"] else 0


def repair_part(part: PartWork, request: Request, precision: str, notes: StageNotes) -> None:
    """Sets ``repaired``, a graph that computes the same as ``graph``, and ``repairs``.

    Args:
        part: with its simplified graph and its calibration samples.
        request: what was asked.
        precision: ``int8`` or ``fp8``.
        notes: takes a line for each repair.
    """
    graph = part.graph.clone()
    if request.target.is_nvidia:
        clamp_masks(graph)
    wanted = repairs_for(request, precision, graph)
    if "equalize" in wanted and part.samples is not None:
        notes.progress("equalizing")
        # weights with a scale for each channel need no equalization; the activations between have one for all
        groups = equalize(graph, channel_magnitudes(graph, part.samples), _EQUALIZE)
        part.repairs += [f"cross-layer equalization of {len(groups)} groups of channels"] if groups else []
    if "outliers" in wanted and part.samples is not None:
        part.repairs += _split(graph, request, precision, part.samples, notes)
    if "smooth" in wanted and part.samples is not None:
        part.repairs += _smooth(graph, request, precision, part.samples, notes)
    notes.note(*(f"{part.name}: {line}" for line in part.repairs))
    part.repaired = graph


def _split(graph: Graph, request: Request, precision: str, samples: Iterable[Sample], notes: StageNotes) -> list[str]:
    layers = planned_layers(graph, request.target, request.recipe, precision)
    notes.progress("looking for outliers")
    done = split_outliers(graph, layers, samples, *layer_formats(request.target, precision))
    if not done:
        return []
    return [
        f"outliers: {sum(len(s.channels) for s in done)} channels of {len(done)} inputs of "
        f"{sum(len(s.layers) for s in done)} matrix products are multiplied in float"
    ]


def _smooth(graph: Graph, request: Request, precision: str, samples: Iterable[Sample], notes: StageNotes) -> list[str]:
    layers = planned_layers(graph, request.target, request.recipe, precision)
    notes.progress("smoothing")
    done = smooth(graph, layers, samples, *layer_formats(request.target, precision))
    if not done:
        return []
    alphas = [s.alpha for s in done]
    folded = sum(s.folded for s in done)
    return [
        f"SmoothQuant: {len(done)} inputs of {sum(len(s.layers) for s in done)} matrix products, migration strength "
        f"{min(alphas):.2f} to {max(alphas):.2f}, {folded} at no cost"
    ]
