"""How much of a graph's matrix work is done in INT8 or FP8, whoever made the graph."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.graph.work import observed_shapes

_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}
_INTEGER = {"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm"}
_SECOND = {"QLinearMatMul": 3, "QGemm": 3}
"""Index of the second matrix, where it is not 1."""

_PASSED = {"Cast", "Transpose", "Reshape", "Identity"}
"""What may stand between a DequantizeLinear and the product that reads it."""


def quantized_shares(path: Path, sample: dict[str, np.ndarray[Any, Any]]) -> tuple[float, float]:
    """Shares of the multiply-accumulates of matrix products whose two matrices are quantized.

    A product counts where it is one of ONNX Runtime's integer kernels, or reads both of its matrices from a
    DequantizeLinear.

    Returns:
        Of the products with a weight, and of all, the two products of attention among them.
    """
    graph = Graph.load(path)
    shapes = observed_shapes(graph, sample)
    totals = {True: 0, False: 0}
    done = {True: 0, False: 0}
    for node in graph.model.graph:
        if node.op_type not in _PRODUCTS | _INTEGER:
            continue
        second = _SECOND.get(node.op_type, 1)
        first = shapes[str(node.inputs[0].name)] if node.inputs[0] is not None else ()
        inner = first[0 if node.attributes.get_int("transA", 0) else -1]
        work = math.prod(shapes[str(node.outputs[0].name)]) * inner
        is_weight = _is_constant(node.inputs[second])
        totals[is_weight] += work
        is_integer = node.op_type in _INTEGER or all(_is_dequantized(v) for v in node.inputs[:2])
        done[is_weight] += work if is_integer else 0
    weights = done[True] / totals[True] if totals[True] else 0.0
    everything = sum(totals.values())
    return weights, sum(done.values()) / everything if everything else 0.0


def _is_constant(value: ir.Value | None) -> bool:
    """Whether a value follows from weights alone."""
    if value is None or constant(value) is not None:
        return True
    producer = value.producer()
    return producer is not None and all(_is_constant(v) for v in producer.inputs)


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    if producer is None:
        return False
    if producer.op_type == "DequantizeLinear":
        return True
    return producer.op_type in _PASSED and _is_dequantized(producer.inputs[0])
