"""SmoothQuant: moves the outliers of a matrix product's input into its weight.

Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models":
``x W = (x / s) (s W)`` with ``s_k = max|x_k|^alpha / max|W_k|^(1 - alpha)`` for each input channel k, so that
neither side has channels far wider than the others. The migration strength alpha is searched for each input:
both sides are quantized as they will be, and the one with the least relative error over held-out rows is
taken. The error is relative to each row's own output, since a few rows of huge magnitude (the separators of a
sentence) would else decide alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.calibrate.ranges import Range
from edgebig.graph import Graph
from edgebig.graph.values import constant, new_initializer
from edgebig.graph.work import Shape, observed_shapes
from edgebig.quantize.formats import Format, channel_scales
from edgebig.quantize.repair.fold import Known, apply, edits, rename_between
from edgebig.quantize.repair.rows import Rows, gather_rows

Array = np.ndarray[Any, Any]

_ALPHAS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
_GAIN = 0.9
"""Smoothing must bring the error below this share of what it is without, since it costs a multiplication."""

_MEMORY = 256 << 20
_ROWS = (64, 512)
_TINY = 1e-6


@dataclass(frozen=True)
class Smoothed:
    """What was done to one input.

    Attributes:
        tensor: its name.
        layers: the matrix products that read it.
        alpha: migration strength.
        error: relative squared error of the products' outputs on held-out rows, before and after.
        folded: the scale went into the operator before, and costs nothing.
    """

    tensor: str
    layers: tuple[str, ...]
    alpha: float
    error: tuple[float, float]
    folded: bool


def smooth(
    graph: Graph,
    layers: Sequence[str],
    samples: Iterable[Mapping[str, Array]],
    activation: Format,
    weight: Format,
) -> list[Smoothed]:
    """Changes ``graph`` in place; its outputs stay the same up to float rounding.

    Args:
        graph: a float32 graph whose nodes have unique names.
        layers: names of the MatMul and Gemm nodes that will be quantized.
        samples: inputs of the graph, two at least; run once.
        activation, weight: the formats that they will be quantized to.
    """
    groups = _groups(graph, set(layers))
    if not groups:
        return []
    stream = iter(samples)
    first = next(stream, None)
    if first is None:
        return []
    shapes = observed_shapes(graph, first)
    channels = sum(_matrix(nodes[0]).shape[0] for nodes in groups.values())
    limit = int(np.clip(_MEMORY // (8 * channels), *_ROWS))
    rows = gather_rows(graph, list(groups), chain([first], stream), limit)
    done = []
    for name, nodes in groups.items():
        if name not in rows:
            continue
        weights = [_matrix(node) for node in nodes]
        found = _best(rows[name], weights, activation, weight)
        if found is None:
            continue
        alpha, scale, error = found
        folded = _apply(graph, nodes, weights, scale, shapes)
        done.append(Smoothed(name, tuple(str(n.name) for n in nodes), alpha, error, folded))
    return done


def _groups(graph: Graph, layers: set[str]) -> dict[str, list[ir.Node]]:
    """The matrix products with a constant weight, by the input that they share."""
    found: dict[str, list[ir.Node]] = {}
    for node in graph.model.graph:
        value = node.inputs[0] if node.inputs else None
        if str(node.name) not in layers or value is None or not _is_product(node):
            continue
        found.setdefault(str(value.name), []).append(node)
    return found


def _is_product(node: ir.Node) -> bool:
    tensor = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2 or node.domain:
        return False
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not node.attributes.get_int("transA", 0))


def _matrix(node: ir.Node) -> Array:
    """The weight as [input channels, output channels]."""
    tensor = constant(node.inputs[1])
    if tensor is None:
        raise ValueError(f"{node.name} has no constant weight")
    array = np.asarray(tensor.numpy(), np.float32)
    return array.T if node.attributes.get_int("transB", 0) else array


def _best(
    rows: Rows, weights: Sequence[Array], activation: Format, weight: Format
) -> tuple[float, Array, tuple[float, float]] | None:
    """The best strength, its scales [input channels], and the errors without and with it."""
    matrix = np.concatenate(weights, axis=1)
    expected = rows.kept @ matrix
    wide = np.maximum(-rows.low, rows.high)

    def error(scale: Array) -> float:
        return _error(rows, matrix, expected, scale, activation, weight)

    before = error(np.ones(len(wide), np.float32))
    least, alpha = min((error(_scale(wide, matrix, alpha)), alpha) for alpha in _ALPHAS)
    if least >= before * _GAIN:
        return None
    return alpha, _scale(rows.largest, matrix, alpha), (before, least)


def _scale(wide: Array, matrix: Array, alpha: float) -> Array:
    heavy = np.abs(matrix).max(axis=1)
    scale = np.maximum(wide, _TINY) ** alpha / np.maximum(heavy, _TINY) ** (1 - alpha)
    # only ratios between channels count: a mean of 1 keeps float32 and FP16 away from their ends
    scaled: Array = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
    return scaled


def _error(rows: Rows, matrix: Array, expected: Array, scale: Array, activation: Format, weight: Format) -> float:
    low, high = float((rows.low / scale).min()), float((rows.high / scale).max())
    step, zero = activation.scale_and_zero_point(Range(low, high))
    scaled = rows.kept / scale
    levels = activation.quantize(scaled + np.float32(step * zero), np.asarray(step, np.float32)).astype(np.float32)
    inputs = (levels - np.float32(zero)) * np.float32(step)
    heavy = matrix * scale[:, None]
    steps = channel_scales(heavy, 1, weight)
    found = inputs @ (weight.quantize(heavy, steps).astype(np.float32) * steps)
    noise = np.square(found - expected).sum(axis=1)
    signal = np.square(expected - expected.mean(axis=0)).sum(axis=1)
    return float((noise / np.maximum(signal, _TINY)).mean())


def _apply(
    graph: Graph, nodes: Sequence[ir.Node], weights: Sequence[Array], scale: Array, shapes: Mapping[str, Shape]
) -> bool:
    value = nodes[0].inputs[0]
    if value is None:
        raise ValueError(f"{nodes[0].name} has no first input")
    for node, weight in zip(nodes, weights, strict=True):
        heavy = weight * scale[:, None]
        heavy = heavy.T if node.attributes.get_int("transB", 0) else heavy
        node.replace_input_with(1, new_initializer(graph, f"{node.name}/smoothed_weight", np.ascontiguousarray(heavy)))
    inverse = (1 / scale).astype(np.float32)
    found = edits(value, {id(n) for n in nodes}, Known(len(inverse), shapes))
    if not isinstance(found, str):
        apply(graph, found, inverse)
        rename_between([edit.node for edit in found], value, "smoothed")
        return True
    name = f"{value.name}/smoothed"
    multiply = ir.Node("", "Mul", [value, new_initializer(graph, f"{name}/scale", inverse)], name=f"{name}/multiply")
    result = multiply.outputs[0]
    result.name, result.type, result.shape = name, ir.TensorType(ir.DataType.FLOAT), value.shape
    main, producer = graph.model.graph, value.producer()
    if producer is None:
        main.insert_before(main[0], [multiply])
    else:
        main.insert_after(producer, [multiply])
    for node in nodes:
        node.replace_input_with(0, result)
    return False
