"""A layer as matrix products: ``y = x W`` for each group, with the input channels as W's rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph.values import constant

Array = np.ndarray[Any, Any]


def refusal(node: ir.Node) -> str | None:
    """Why a node is not such a layer with a constant weight; ``None`` where it is."""
    if node.domain or node.op_type not in {"MatMul", "Gemm", "Conv"}:
        return f"{node.op_type} is not a matrix product or convolution"
    tensor = constant(node.inputs[1])
    if tensor is None or constant(node.inputs[0]) is not None:
        return "its second input is computed, or its first is not"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight is {tensor.dtype.name}"
    if node.op_type == "MatMul" and len(tensor.shape) != 2:
        return f"its weight has {len(tensor.shape)} axes"
    return None


def matrix_shape(node: ir.Node) -> tuple[int, int, int]:
    """Groups, rows (input channels, times the kernel's elements) and columns (outputs) of a layer's weight."""
    shape = _shape(node)
    if node.op_type == "Conv":
        group = node.attributes.get_int("group", 1)
        return group, math.prod(shape[1:]), shape[0] // group
    return (1, shape[1], shape[0]) if _is_transposed(node) else (1, shape[0], shape[1])


def to_matrices(node: ir.Node, array: Array) -> Array:
    """An array of the weight's shape as ``[groups, rows, columns]``; a view where it can be one."""
    groups, rows, columns = matrix_shape(node)
    if node.op_type == "Conv":
        return array.reshape(groups, columns, rows).transpose(0, 2, 1)
    return (array.T if _is_transposed(node) else array)[None]


def from_matrices(node: ir.Node, matrices: Array) -> Array:
    """The inverse of :func:`to_matrices`."""
    if node.op_type == "Conv":
        return np.ascontiguousarray(matrices.transpose(0, 2, 1)).reshape(_shape(node))
    return np.ascontiguousarray(matrices[0].T if _is_transposed(node) else matrices[0])


def _is_transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1


def _shape(node: ir.Node) -> tuple[int, ...]:
    tensor = constant(node.inputs[1])
    assert tensor is not None  # refusal() was asked
    return tuple(int(size) for size in tensor.shape.numpy())
