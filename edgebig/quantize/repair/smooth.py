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
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import new_initializer
from edgebig.graph.work import Shape, observed_shapes
from edgebig.quantize.formats import Format
from edgebig.quantize.repair.fold import Known, apply, edits, rename_between
from edgebig.quantize.repair.products import (
    is_transposed,
    product_groups,
    product_matrix,
    row_noise,
    row_signal,
    rows_of_groups,
    smoothing_scale,
)
from edgebig.quantize.repair.rows import Rows

Array = np.ndarray[Any, Any]

_ALPHAS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
_GAIN = 0.9
"""Smoothing must bring the error below this share of what it is without, since it costs a multiplication."""


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
    groups = product_groups(graph, layers)
    if not groups:
        return []
    stream = iter(samples)
    first = next(stream, None)
    if first is None:
        return []
    shapes = observed_shapes(graph, first)
    rows = rows_of_groups(graph, groups, first, stream)
    done = []
    for name, nodes in groups.items():
        if name not in rows:
            continue
        weights = [product_matrix(node) for node in nodes]
        found = _best(rows[name], weights, activation, weight)
        if found is None:
            continue
        alpha, scale, error = found
        folded = _apply(graph, nodes, weights, scale, shapes)
        done.append(Smoothed(name, tuple(str(n.name) for n in nodes), alpha, error, folded))
    return done


def _best(
    rows: Rows, weights: Sequence[Array], activation: Format, weight: Format
) -> tuple[float, Array, tuple[float, float]] | None:
    """The best strength, its scales [input channels], and the errors without and with it."""
    matrix = np.concatenate(weights, axis=1)
    expected = rows.kept @ matrix
    signal = row_signal(expected)
    wide = np.maximum(-rows.low, rows.high)

    def error(scale: Array) -> float:
        return float((row_noise(rows, matrix, expected, scale, activation, weight) / signal).mean())

    before = error(np.ones(len(wide), np.float32))
    least, alpha = min((error(smoothing_scale(wide, matrix, alpha)), alpha) for alpha in _ALPHAS)
    if least >= before * _GAIN:
        return None
    return alpha, smoothing_scale(rows.largest, matrix, alpha), (before, least)


def _apply(
    graph: Graph, nodes: Sequence[ir.Node], weights: Sequence[Array], scale: Array, shapes: Mapping[str, Shape]
) -> bool:
    value = nodes[0].inputs[0]
    if value is None:
        raise ValueError(f"{nodes[0].name} has no first input")
    for node, weight in zip(nodes, weights, strict=True):
        heavy = weight * scale[:, None]
        heavy = heavy.T if is_transposed(node) else heavy
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
