"""Quantizes FP16 tensors by way of float32 where ONNX Runtime's kernel cuts off what ONNX rounds."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from edgebig.graph.graph import Graph
from edgebig.graph.values import constant

_INTEGERS = {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16}


def rounded(graph: Graph) -> Graph:
    """The graph, or a copy in which integers are made of float32 where that is needed for them to be rounded."""
    if not any(_is_narrow(node) for node in graph.nodes()) or not cuts_off():
        return graph
    copy = graph.clone()
    widen(copy.model)
    return copy


def widen(model: ir.Model) -> int:
    """Puts a Cast to float32 before each QuantizeLinear of an FP16 tensor to integers, in place.

    ONNX's ``saturate(round(x / scale) + zero_point)``, with ``x`` and ``scale`` exact in float32.

    Returns:
        How many there were.
    """
    found = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if _is_narrow(node)]
    for node in found:
        for index in (0, 1):
            cast = ir.node("Cast", [node.inputs[index]], attributes={"to": ir.DataType.FLOAT})
            node.prepend(cast)
            node.replace_input_with(index, cast.outputs[0])
    return len(found)


@cache
def cuts_off() -> bool:
    """Whether this ONNX Runtime makes 0 of 0.75 in FP16 at a scale of 1: version 1.23 does, 1.32 does not."""
    x, q, y = (ir.Value(name=name) for name in "xqy")
    x.shape, x.type = ir.Shape([1]), ir.TensorType(ir.DataType.FLOAT16)
    y.type = ir.TensorType(ir.DataType.FLOAT16)
    tensors = ir.tensor(np.array(1, np.float16), name="scale"), ir.tensor(np.array(0, np.int8), name="zero")
    values = [ir.Value(name=tensor.name, const_value=tensor) for tensor in tensors]
    nodes = [
        ir.node("QuantizeLinear", [x, *values], outputs=[q]),
        ir.node("DequantizeLinear", [q, *values], outputs=[y]),
    ]
    graph = ir.Graph([x], [y], nodes=nodes, initializers=values, opset_imports={"": 19}, name="rounding")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    message = ir.to_proto(ir.Model(graph, ir_version=9)).SerializeToString()
    session = ort.InferenceSession(message, options, providers=["CPUExecutionProvider"])
    return bool(session.run(None, {"x": np.array([0.75], np.float16)})[0][0] == 0)


def _is_narrow(node: ir.Node) -> bool:
    if node.op_type != "QuantizeLinear" or node.domain:
        return False
    zero = _dtype(node.inputs[2]) if len(node.inputs) > 2 else None
    return _dtype(node.inputs[1]) == ir.DataType.FLOAT16 and (zero or ir.DataType.UINT8) in _INTEGERS  # ONNX's default


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    tensor = constant(value)
    if tensor is not None:
        return tensor.dtype
    return None if value is None else value.dtype
