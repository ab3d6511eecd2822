"""Splits the outlier channels of a matrix product's input off and multiplies them in float.

Dettmers et al. 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", section 3.2, with channels
that calibration chooses once instead of at every run:

    x W = (x * m) W' + x[:, O] W[O]

O are the outlier channels, m is 0 for them and 1 for the others, and W' is W with zeros in the rows O. The first
product is quantized: neither its activations nor its weights have the outliers that their scales would stretch for.
The second stays float and has |O| / K of the work.

Channels are ranked by ``max|x_k| max|W_k|``, which smoothing (``smooth.py``) does not change: a factor moved between
the two sides cancels in it. A group of products that share their input is split if that brings the error of their
quantized outputs on held-out rows below half of what smoothing alone leaves, since a split costs a gather, a thin
product and an addition.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant, consumers, new_initializer
from edgebig.quantize.assignment import keep_float
from edgebig.quantize.formats import Format
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

SHARE = 0.01
"""Of the input channels, at least so many are split off; the error hardly falls with more (MiniLM: 1, 2 and 4 %)."""

_MULTIPLE = 8
"""Tensor cores multiply FP16 matrices whose inner size is a multiple of 8 (NVIDIA, Deep Learning Performance Guide)."""

_MOST = 0.05
"""Share of a product's work that may stay float."""

_GAIN = 0.5
_ROWS = 512
"""Held-out rows that tell half the error from more of it, at most; all rows tell which channels are outliers."""

_ALPHAS = (None, 0.5, 0.6, 0.7, 0.8)
"""Strengths of the smoothing that is assumed on both sides of the comparison."""


@dataclass(frozen=True)
class Split:
    """What was done to one input.

    Attributes:
        tensor: its name.
        layers: the matrix products that read it.
        channels: that are multiplied in float, in ascending order.
        error: relative squared error of the products' outputs on held-out rows, before and after.
    """

    tensor: str
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    error: tuple[float, float]


def split_outliers(
    graph: Graph,
    layers: Sequence[str],
    samples: Iterable[Mapping[str, Array]],
    activation: Format,
    weight: Format,
) -> list[Split]:
    """Changes ``graph`` in place; its outputs stay the same up to float rounding.

    The thin products get nodes of their own that no plan quantizes, ``LAYER/outliers``.

    Args:
        graph: a float32 graph whose nodes have unique names.
        layers: names of the MatMul and Gemm nodes that will be quantized.
        samples: inputs of the graph, two at least; run once.
        activation, weight: the formats that they will be quantized to.
    """
    groups = {name: nodes for name, nodes in product_groups(graph, layers).items() if _count(nodes[0])}
    stream = iter(samples)
    first = next(stream, None) if groups else None
    if first is None:
        return []
    rows = rows_of_groups(graph, groups, first, stream)
    done = []
    for name, nodes in groups.items():
        if name not in rows:
            continue
        channels, before, after = _best(rows[name], nodes, activation, weight)
        if after > _GAIN * before:
            continue
        _split(graph, nodes, channels)
        done.append(Split(name, tuple(str(n.name) for n in nodes), tuple(map(int, channels)), (before, after)))
    return done


def _count(node: ir.Node) -> int:
    """How many channels of a product's input are split off; 0 where it has too few."""
    inputs = product_matrix(node).shape[0]
    count = _MULTIPLE * math.ceil(SHARE * inputs / _MULTIPLE)
    return count if count <= _MOST * inputs else 0


def _best(rows: Rows, nodes: Sequence[ir.Node], activation: Format, weight: Format) -> tuple[Array, float, float]:
    """The outlier channels, and the error without and with the split, each with the best smoothing."""
    matrix = np.concatenate([product_matrix(node) for node in nodes], axis=1)
    kept = rows.kept[:: -(-len(rows.kept) // _ROWS)]
    wide = np.maximum(-rows.low, rows.high)
    reach = wide * np.abs(matrix).max(axis=1)
    order = np.argsort(-reach, kind="stable")
    count = _count(nodes[0])
    channels, others = np.sort(order[:count]), np.sort(order[count:])
    whole = Rows(rows.low, rows.high, kept, rows.largest)
    signal = row_signal(kept @ matrix)

    def error(part: Rows, weights: Array) -> float:
        largest = np.maximum(-part.low, part.high)
        scales = [
            np.ones(len(largest), np.float32) if a is None else smoothing_scale(largest, weights, a) for a in _ALPHAS
        ]
        expected = part.kept @ weights
        return min(float((row_noise(part, weights, expected, s, activation, weight) / signal).mean()) for s in scales)

    left = Rows(rows.low[others], rows.high[others], kept[:, others], rows.largest[others])
    return channels, error(whole, matrix), error(left, matrix[others])


def _split(graph: Graph, nodes: Sequence[ir.Node], channels: Array) -> None:
    value = nodes[0].inputs[0]
    if value is None:
        raise ValueError(f"{nodes[0].name} has no first input")
    main, name = graph.model.graph, str(value.name)
    mask = np.ones(product_matrix(nodes[0]).shape[0], np.float32)
    mask[channels] = 0
    masked = ir.Node("", "Mul", [value, new_initializer(graph, f"{name}/inlier_mask", mask)], name=f"{name}/mask")
    _describe(masked, f"{name}/inliers", value.shape)
    picked = new_initializer(graph, f"{name}/outlier_channels", channels.astype(np.int64))
    gather = ir.Node("", "Gather", [value, picked], [ir.AttrInt64("axis", -1)], name=f"{name}/gather")
    shape = None if value.shape is None else ir.Shape([*value.shape.dims[:-1], len(channels)])
    _describe(gather, f"{name}/outliers", shape)
    producer = value.producer()
    if producer is None:
        main.insert_before(main[0], [masked, gather])
    else:
        main.insert_after(producer, [masked, gather])
    for node in nodes:
        _split_product(graph, node, masked.outputs[0], gather.outputs[0], channels)


def _split_product(graph: Graph, node: ir.Node, inliers: ir.Value, outliers: ir.Value, channels: Array) -> None:
    matrix = product_matrix(node)
    scale = node.attributes.get_float("alpha", 1.0)
    thin, rest = matrix[channels] * np.float32(scale), matrix.copy()
    rest[channels] = 0
    node.replace_input_with(0, inliers)
    rest = np.ascontiguousarray(rest.T if is_transposed(node) else rest)
    node.replace_input_with(1, new_initializer(graph, f"{node.name}/inlier_weight", rest))
    factor = new_initializer(graph, f"{node.name}/outlier_weight", np.ascontiguousarray(thin))
    product = ir.Node("", "MatMul", [outliers, factor], name=f"{node.name}/outliers")
    last = _with_bias(node)
    result = last.outputs[0]
    _describe(product, f"{result.name}/outlier_part", result.shape)
    keep_float(product, f"the outlier channels of {node.name}, {len(channels)} of {len(matrix)}")
    total = ir.Node("", "Add", [result, product.outputs[0]], name=f"{node.name}/add_outliers")
    name = str(result.name)
    # whoever compares two graphs' tensors by name finds the whole sum under the name that it had
    for part in {id(n): n.outputs[0] for n in (node, last)}.values():
        part.name = f"{part.name}/inlier_part"
    _describe(total, name, result.shape)
    ir.convenience.replace_all_uses_with(result, total.outputs[0], replace_graph_outputs=True)
    total.replace_input_with(0, result)
    graph.model.graph.insert_after(last, [product, total])


def _with_bias(node: ir.Node) -> ir.Node:
    """The Add of a constant that alone reads a product, else the product: a bias must stay beside its product."""
    readers = consumers(node.outputs[0])
    if len(readers) != 1 or node.outputs[0].is_graph_output() or readers[0].op_type != "Add" or readers[0].domain:
        return node
    others = [v for v in readers[0].inputs if v is not node.outputs[0]]
    return readers[0] if len(others) == 1 and constant(others[0]) is not None else node


def _describe(node: ir.Node, name: str, shape: ir.Shape | None) -> None:
    value = node.outputs[0]
    value.name, value.type, value.shape = name, ir.TensorType(ir.DataType.FLOAT), shape
