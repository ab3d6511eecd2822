"""AWQ: makes the weights that matter most larger before they are rounded.

Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration": ``x W =
(x / s) (s W)`` with ``s = mean|x|^alpha`` for each input channel, alpha searched by the local output error of the
quantized ``s W``. ``1 / s`` goes into the operator before, so nothing is added to the graph. Each block's clipping is
searched by the output error too (the paper's section 3.2 and its implementation's clip search).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.graph.work import observed_shapes
from edgebig.quantize.formats import NVFP4, RATIOS
from edgebig.quantize.plan import Plan, WeightChoice
from edgebig.quantize.repair.fold import Edit, Known, apply, edits, value_readers
from edgebig.quantize.repair.fold import replace as replace_constant
from edgebig.quantize.repair.matrices import from_matrices, refusal, to_matrices
from edgebig.quantize.repair.moments import MEMORY, Moments, Samples, layer_moments
from edgebig.quantize.repair.rounding import local_error
from edgebig.quantize.scales import spread, weight_scales

Array = np.ndarray[Any, Any]

_ALPHAS = np.linspace(0, 1, 21)
_COLUMNS = 512
"""Output channels, evenly chosen, on which the search is made."""

_FLOOR = 1e-4
"""Of the largest mean: a channel that is nearly always zero is scaled no further."""


@dataclass(frozen=True)
class Scaled:
    """What was done for the layers that read one value.

    Attributes:
        layers: their names.
        alpha: the exponent; 0 where no scales were better.
        error: local squared error with the scales over that without, both rounded to nearest.
    """

    layers: tuple[str, ...]
    alpha: float
    error: float


@dataclass(frozen=True)
class AwqReport:
    """What was done.

    Attributes:
        scaled: what the layers that share an input were scaled by.
        declined: which were not scaled, and why.
        scales: by node, clipped scales of the weight for rounding to nearest, as ``insert_qdq`` takes them.
    """

    scaled: tuple[Scaled, ...]
    declined: tuple[str, ...]
    scales: dict[str, Array]


def awq(graph: Graph, plan: Plan, samples: Samples, *, memory: int = MEMORY) -> AwqReport:
    """Changes ``graph`` in place, its outputs by float rounding only.

    Rounding to nearest takes the report's scales; GPTQ, which moves the errors itself, does without them.

    Args:
        graph: the float32 graph that the plan was made for.
        plan: whose weights of MatMul and Gemm are searched; values that it quantizes keep their ranges.
        samples: inputs of the graph; iterated several times where memory asks for it.
        memory: bytes for moments and activations, unless a single layer needs more.

    Raises:
        CalibrationError: no samples, or an activation is not finite.
    """
    nodes = {str(node.name): node for node in graph.model.graph}
    choices = {w.node: w for w in plan.weights if w.input == 1 and _is_linear(nodes[w.node])}
    first = next(iter(samples), None)
    shapes = observed_shapes(graph, first) if first is not None and choices else {}
    scaled: list[Scaled] = []
    declined: list[str] = []
    parts: dict[str, Array] = {}
    for names, moments in layer_moments(graph, list(choices), samples, memory):
        second = moments.second[0].astype(np.float32)
        layers = [nodes[name] for name in names]
        found = _place(layers[0], Known(moments.second.shape[-1], shapes, plan.activations))
        if isinstance(found, str):
            declined.append(f"{', '.join(names)}: {found}")
        else:
            alpha, factor, error = _search(layers, [choices[n] for n in names], moments, second)
            scaled.append(Scaled(names, alpha, error))
            if alpha > 0:
                _scale(graph, layers[0], found, factor)
                second /= factor[:, None] * factor[None, :]
        for name in names:
            if choices[name].axis is not None and choices[name].format != NVFP4:
                parts[name] = _clip(_weight(nodes[name]), choices[name], second)
    # a fold into a layer's output channels, perhaps after its own search, moves its scales, but not their parts
    scales = {n: _max_scales(nodes[n], choices[n]) * part for n, part in parts.items()}
    return AwqReport(tuple(scaled), tuple(declined), scales)


def _is_linear(node: ir.Node) -> bool:
    return node.op_type != "Conv" and refusal(node) is None and not node.attributes.get_int("transA", 0)


def _place(layer: ir.Node, known: Known) -> list[Edit] | str:
    """Where the scales go: every reader of the value must be a linear layer that takes their inverse."""
    value = layer.inputs[0]
    assert value is not None  # refusal() was asked
    readers = value_readers(value)
    others = [n for n in readers if [i for i, v in enumerate(n.inputs) if v is value] != [0] or not _is_linear(n)]
    if others:
        return f"{value.name} is read by {others[0].op_type} too"
    return edits(value, {id(node) for node in readers}, known)


def _search(
    layers: Sequence[ir.Node], choices: Sequence[WeightChoice], moments: Moments, second: Array
) -> tuple[float, Array, float]:
    """The best alpha, its scales ``[K]``, and the error relative to that of alpha 0."""
    mean = np.maximum(moments.mean[0], _FLOOR * moments.mean[0].max(initial=0.0))
    if not mean.any():
        return 0.0, np.ones(len(mean), np.float32), 1.0
    parts = [_thinned(_weight(node)) for node in layers]
    errors = []
    for alpha in _ALPHAS:
        factor = _factor(mean, alpha)
        errors.append(sum(_error(w, factor, c, second) for w, c in zip(parts, choices, strict=True)))
    best = int(np.argmin(errors))
    return float(_ALPHAS[best]), _factor(mean, _ALPHAS[best]), errors[best] / max(errors[0], 1e-30)


def _factor(mean: Array, alpha: float) -> Array:
    factor = mean**alpha
    # only ratios count: this keeps both sides within the float formats
    scaled: Array = (factor / np.sqrt(factor.max() * factor.min())).astype(np.float32)
    return scaled


def _error(weight: Array, factor: Array, choice: WeightChoice, second: Array) -> float:
    """Summed local error of ``[K, N]`` columns whose scaled form is rounded to nearest."""
    heavy = weight * factor[:, None]
    plain = _as_matrix(choice)
    scale = spread(weight_scales(heavy, plain), plain, heavy.shape)
    restored = choice.format.quantize(heavy, scale).astype(np.float32) * scale
    return float(local_error(weight - restored / factor[:, None], second).sum())


def _thinned(weight: Array) -> Array:
    columns = weight.shape[1]
    step = np.linspace(0, columns - 1, min(columns, _COLUMNS)).astype(np.int64)
    return np.ascontiguousarray(weight[:, step])


def _clip(weight: Array, choice: WeightChoice, second: Array) -> Array:
    """The clipping of each block and column that loses least output: parts of the max-abs scales, in their shape.

    Errors of different blocks are taken to be independent in the search; a column keeps its max-abs scales where
    that proves wrong.
    """
    plain = _as_matrix(replace(choice, clip="max"))
    rows, columns = weight.shape
    block = choice.block or rows
    full = weight_scales(weight, plain).reshape(-1, columns)
    best = np.ones_like(full)
    least = np.full(full.shape, np.inf)
    for ratio in RATIOS:
        error = _lost(weight, full * ratio, choice)
        blocks = [slice(start, start + block) for start in range(0, rows, block)]
        found = np.stack([local_error(error[b], second[b, b]) for b in blocks])
        best, least = np.where(found < least, ratio, best), np.minimum(found, least)
    worse = local_error(_lost(weight, full * best, choice), second) > local_error(_lost(weight, full, choice), second)
    best = np.where(worse, np.float32(1), best)
    if choice.block is None:
        first: Array = best[0]
        return first
    return best if choice.axis == 0 else np.ascontiguousarray(best.T)


def _lost(weight: Array, scale: Array, choice: WeightChoice) -> Array:
    """What rounding to nearest takes from ``[K, N]`` with scales ``[blocks, N]``."""
    spread_out = np.repeat(scale, choice.block or len(weight), axis=0)[: len(weight)]
    lost: Array = weight - choice.format.quantize(weight, spread_out).astype(np.float32) * spread_out
    return lost


def _max_scales(node: ir.Node, choice: WeightChoice) -> Array:
    tensor = constant(node.inputs[choice.input])
    assert tensor is not None
    return weight_scales(np.asarray(tensor.numpy(), np.float32), replace(choice, clip="max"))


def _as_matrix(choice: WeightChoice) -> WeightChoice:
    """The choice for the weight as ``[K, N]``: the input channels are axis 0."""
    axis = None if choice.axis is None else (0 if choice.block is not None else 1)
    return replace(choice, axis=axis)


def _scale(graph: Graph, layer: ir.Node, found: list[Edit], factor: Array) -> None:
    value = layer.inputs[0]
    assert value is not None
    apply(graph, found, 1 / factor.astype(np.float64))
    for node in value_readers(value):
        replace_constant(graph, node, 1, from_matrices(node, (_weight(node) * factor[:, None])[None]))


def _weight(node: ir.Node) -> Array:
    """Float32 ``[K, N]``."""
    tensor = constant(node.inputs[1])
    assert tensor is not None
    matrix: Array = to_matrices(node, np.asarray(tensor.numpy(), np.float32))[0]
    return matrix
