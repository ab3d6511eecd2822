"""Which number formats the layers of a graph compute with, read from the graph."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.graph import dtype_name
from edgebig.graph.values import constant
from edgebig.verify.subgraph import FLOATS

_NARROW = {
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT4,
    ir.DataType.UINT4,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.FLOAT8E4M3FN,
    ir.DataType.FLOAT8E5M2,
    ir.DataType.FLOAT4E2M1,
}
_SHORT = {"float8e4m3fn": "fp8", "float8e5m2": "fp8 e5m2", "float4e2m1": "fp4"}


def formats_of(graph: Graph, tensors: Collection[str]) -> dict[str, str]:
    """The format of each layer, by the tensor that it writes.

    ``uint8 x int8`` are activations by weights; ``float16 x int4`` weights alone; ``uint8`` activations alone;
    ``float32`` a layer that nothing quantizes.

    Args:
        graph: with or without Q/DQ pairs or ONNX Runtime's integer operators.
        tensors: outputs of the layers; a layer is all that lies between its own and those of others.
    """
    known = set(tensors)
    values = {str(v.name): v for node in graph.model.graph for v in node.outputs}
    return {name: _format(values[name], known) for name in tensors}


def _format(value: ir.Value, known: set[str]) -> str:
    activations: set[str] = set()
    weights: set[str] = set()
    seen: set[int] = set()
    waiting = [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        for taken in node.inputs:
            if taken is None or (taken.dtype not in _NARROW and taken.dtype not in FLOATS):
                continue
            if taken.dtype in _NARROW:
                tensor, producer = constant(taken), taken.producer()
                # constants that are scalars and vectors are zero points, gathered ones rows of a weight
                if tensor is None and producer is not None and producer.op_type != "Gather":
                    activations.add(_name(taken.dtype))
                elif tensor is not None and len(tensor.shape) > 1:
                    weights.add(_name(taken.dtype))
            if taken.name not in known:
                waiting.append(taken.producer())
    plain = _name(value.dtype)
    if weights:
        return f"{'/'.join(sorted(activations)) or plain} x {'/'.join(sorted(weights))}"
    return "/".join(sorted(activations)) or plain


def _name(dtype: ir.DataType | None) -> str:
    name = dtype_name(dtype)
    return _SHORT.get(name, name)
