"""Matrix products that read the same input: what they read, and what quantizing them loses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.calibrate.ranges import Range
from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.quantize.formats import Format, channel_scales
from edgebig.quantize.repair.rows import Rows, gather_rows

Array = np.ndarray[Any, Any]

TINY = 1e-6

_MEMORY = 256 << 20
_ROWS = (64, 512)


def product_groups(graph: Graph, layers: Sequence[str]) -> dict[str, list[ir.Node]]:
    """The MatMul and Gemm nodes of these names with a constant weight, by the input that they share."""
    wanted = set(layers)
    found: dict[str, list[ir.Node]] = {}
    for node in graph.model.graph:
        value = node.inputs[0] if node.inputs else None
        if str(node.name) not in wanted or value is None or not _is_product(node):
            continue
        found.setdefault(str(value.name), []).append(node)
    return found


def _is_product(node: ir.Node) -> bool:
    tensor = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2 or node.domain:
        return False
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not node.attributes.get_int("transA", 0))


def is_transposed(node: ir.Node) -> bool:
    """Whether a product's weight has its input channels on the last axis."""
    return bool(node.attributes.get_int("transB", 0))


def product_matrix(node: ir.Node) -> Array:
    """The weight as float32 ``[input channels, output channels]``."""
    tensor = constant(node.inputs[1])
    if tensor is None:
        raise ValueError(f"{node.name} has no constant weight")
    array = np.asarray(tensor.numpy(), np.float32)
    return array.T if is_transposed(node) else array


def rows_of_groups(
    graph: Graph, groups: Mapping[str, Sequence[ir.Node]], first: Mapping[str, Array], stream: Iterable[Any]
) -> dict[str, Rows]:
    """What the groups read on the samples ``first`` and ``stream``, in bounded memory."""
    channels = sum(product_matrix(nodes[0]).shape[0] for nodes in groups.values())
    limit = int(np.clip(_MEMORY // (8 * channels), *_ROWS))
    return gather_rows(graph, list(groups), chain([first], stream), limit)


def smoothing_scale(wide: Array, matrix: Array, alpha: float) -> Array:
    """SmoothQuant's divisor of each input channel, float32 ``[K]``; 1 where the weight has nothing to multiply.

    Args:
        wide: largest magnitude of each channel, ``[K]``.
        matrix: weight ``[K, N]``.
        alpha: migration strength.
    """
    heavy = np.abs(matrix).max(axis=1)
    alive = heavy > 0
    scale = np.maximum(wide, TINY) ** alpha / np.maximum(heavy, TINY) ** (1 - alpha)
    # only ratios between channels count: a mean of 1 keeps float32 and FP16 away from their ends
    mean = np.exp(np.log(scale[alive]).mean()) if alive.any() else 1.0
    scaled: Array = np.where(alive, scale / mean, 1.0).astype(np.float32)
    return scaled


def row_noise(rows: Rows, matrix: Array, expected: Array, scale: Array, activation: Format, weight: Format) -> Array:
    """Squared error of each kept row's outputs if both sides are quantized after smoothing by ``scale``, ``[rows]``.

    Args:
        rows: what is read, K channels.
        matrix: weight ``[K, N]``.
        expected: ``rows.kept @ matrix``.
        scale: divisor of each channel, ``[K]``.
        activation, weight: the formats.
    """
    low, high = float((rows.low / scale).min()), float((rows.high / scale).max())
    step, zero = activation.scale_and_zero_point(Range(low, high))
    scaled = rows.kept / scale
    levels = activation.quantize(scaled + np.float32(step * zero), np.asarray(step, np.float32)).astype(np.float32)
    inputs = (levels - np.float32(zero)) * np.float32(step)
    heavy = matrix * scale[:, None]
    steps = channel_scales(heavy, 1, weight)
    found = inputs @ (weight.quantize(heavy, steps).astype(np.float32) * steps)
    noise: Array = np.square(found - expected).sum(axis=1)
    return noise


def row_signal(expected: Array) -> Array:
    """What :func:`row_noise` is relative to: each row's squared distance from the mean output, ``[rows]``."""
    signal: Array = np.square(expected - expected.mean(axis=0)).sum(axis=1)
    return np.maximum(signal, TINY)
