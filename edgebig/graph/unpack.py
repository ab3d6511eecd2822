"""Writes out weights in formats that ONNX Runtime's CPU provider has no kernel for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph.graph import Graph
from edgebig.graph.values import constant

Array = np.ndarray[Any, Any]


def unpack_fp4(model: ir.Model) -> int:
    """Replaces each DequantizeLinear of a constant FLOAT4E2M1 weight by the floats that it gives, in place.

    The values are those of ONNX's definition, ``scale * quantized`` in float32, rounded to the output's type, so that
    a graph with NVFP4 weights can be compared with its original on a machine without such a GPU.

    Returns:
        How many were replaced.
    """
    main = model.graph
    found = [node for node in main if node.op_type == "DequantizeLinear" and not node.domain and _is_fp4(node)]
    for node in found:
        values = _dequantized(node)
        result = node.outputs[0]
        if values is None or result.dtype is None:
            continue
        name = f"{result.name}/unpacked"
        tensor = ir.tensor(values.astype(result.dtype.numpy()), name=name)
        given = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(result.dtype), const_value=tensor)
        main.register_initializer(given)
        ir.convenience.replace_all_uses_with(result, given)
        scale = node.inputs[1].producer() if node.inputs[1] is not None else None
        main.remove(node, safe=True)
        if scale is not None and not scale.outputs[0].uses():
            main.remove(scale, safe=True)
    for name in [n for n, v in main.initializers.items() if not v.uses() and not v.is_graph_output()]:
        del main.initializers[name]
    return len(found)


def runnable(graph: Graph) -> Graph:
    """The graph, or a copy with its FLOAT4E2M1 weights written out where it has any."""
    if not any(v.dtype == ir.DataType.FLOAT4E2M1 for v in graph.model.graph.initializers.values()):
        return graph
    copy = graph.clone()
    unpack_fp4(copy.model)
    return copy


def _is_fp4(node: ir.Node) -> bool:
    tensor = constant(node.inputs[0])
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT4E2M1


def _dequantized(node: ir.Node) -> Array | None:
    """What a DequantizeLinear of constants gives, float32; ``None`` where something is computed."""
    tensor, scale = constant(node.inputs[0]), _scale(node.inputs[1])
    if tensor is None or scale is None:
        return None
    values, axis = np.asarray(tensor.numpy()).astype(np.float32), node.attributes.get_int("axis", 1)
    block = node.attributes.get_int("block_size", 0)
    if block:
        scale = np.repeat(scale, block, axis=axis)[tuple(slice(size) for size in values.shape)]
    elif scale.ndim == 1 and values.ndim > 0:
        scale = scale.reshape([-1 if i == axis % values.ndim else 1 for i in range(values.ndim)])
    return values * scale


def _scale(value: ir.Value | None) -> Array | None:
    """A scale, float32: a constant, possibly of another DequantizeLinear or behind a Cast."""
    tensor = constant(value)
    if tensor is not None:
        return np.asarray(tensor.numpy()).astype(np.float32)
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type == "DequantizeLinear":
        return _dequantized(node)
    if node.op_type == "Cast" and value is not None and value.dtype is not None:
        inner = _scale(node.inputs[0])
        return None if inner is None else inner.astype(value.dtype.numpy()).astype(np.float32)
    return None
