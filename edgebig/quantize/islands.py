"""Finds the nodes that must stay float32 when a graph is lowered."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgebig.calibrate.ranges import Ranges
from edgebig.graph import Graph
from edgebig.graph.schema import accepts, schema_of
from edgebig.graph.values import constant, consumers

_FP16_MAX = 65504.0
_HEADROOM = 2.0
"""Unseen data may reach further than the samples did."""

_FP16_SMALLEST = 2.0**-25
"""Below half of FP16's smallest subnormal a value rounds to zero."""

_FP16_SMALLEST_SCALE = 2.0**-17
"""Below it FP16's subnormals are coarser than the steps of an 8-bit scale."""

_QDQ = {"QuantizeLinear", "DequantizeLinear"}

_WITH = "of a pair around the same layer: "
_LAYERS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}

_EPSILON_READERS = {"Add", "Max", "Clip", "Div", "Sub", "Pow"}
"""Operators in which a tiny constant keeps something from becoming zero."""


def find_islands(graph: Graph, low: ir.DataType, ranges: Ranges | None) -> dict[int, str]:
    """The reason of each node of the main graph (by ``id``) that stays float32.

    A node stays where its schema has no such type, where it holds subgraphs, and for FP16 where a
    value that it reads or writes is larger than FP16 holds, or is a constant that would become zero.
    A node without floats is not named.
    """
    islands: dict[int, str] = {}
    for node in graph.model.graph:
        reason = _schema_reason(node, low)
        if reason is None and low == ir.DataType.FLOAT16 and node.op_type in _QDQ:
            reason = _scale_reason(node)
        if reason is not None:
            islands[id(node)] = reason
    if low == ir.DataType.FLOAT16:
        for value, reason in _out_of_range(graph, ranges):
            producer = value.producer()
            for node in [*([producer] if producer is not None else []), *consumers(value)]:
                islands.setdefault(id(node), reason)
    _keep_layers_whole(graph, islands)
    return islands


def _keep_layers_whole(graph: Graph, islands: dict[int, str]) -> None:
    """Where one pair around a quantized layer stays float32, the layer and its other operand's pair do too.

    A scale has one type in a pair, and TensorRT-RTX 1.7 fails on a product whose operands' scales have two ("type
    mismatch between matmul operand scales").
    """
    waiting = [node for node in graph.model.graph if node.op_type in _QDQ and islands.get(id(node))]
    while waiting:
        node = waiting.pop()
        found = [reader for value in node.outputs for reader in consumers(value)]
        if node.op_type == "QuantizeLinear":
            joined = [reader for reader in found if reader.op_type == "DequantizeLinear"]
        else:
            layers = [reader for reader in found if reader.op_type in _LAYERS]
            sources = [node.inputs[0], *(value for layer in layers for value in layer.inputs)]
            producers = [value.producer() for value in sources if value is not None]
            joined = [*layers, *(p for p in producers if p is not None and p.op_type in _QDQ)]
        for other in joined:
            if id(other) not in islands:
                islands[id(other)] = f"{_WITH}{islands[id(node)].removeprefix(_WITH)}"
                if other.op_type in _QDQ:
                    waiting.append(other)


def _schema_reason(node: ir.Node, low: ir.DataType) -> str | None:
    floats = [i for i, v in enumerate(node.inputs) if v is not None and v.dtype == ir.DataType.FLOAT]
    writes = any(v.dtype == ir.DataType.FLOAT for v in node.outputs)
    if not floats and not writes:
        return ""
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        return f"{node.op_type} holds subgraphs"
    schema = schema_of(node)
    if schema is None:
        return f"{node.domain or 'ONNX'} has no schema of it here"
    first = [i for i in floats if accepts(node, i, low)]
    if floats and not first:
        return f"ONNX has no {low.name} {node.op_type} at this opset"
    if writes and not floats and not _can_write(schema, low):
        return f"ONNX has no {low.name} {node.op_type} at this opset"
    return None


def _scale_reason(node: ir.Node) -> str | None:
    scale = constant(node.inputs[1])
    if scale is not None and float(scale.numpy().min()) < _FP16_SMALLEST_SCALE:
        return f"its scale {float(scale.numpy().min()):.3g} is too small for FP16"
    return None


def _can_write(schema: object, low: ir.DataType) -> bool:
    """Whether an operator without float inputs (Cast, ConstantOfShape) can give the type."""
    constraints = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}  # type: ignore[attr-defined]
    formal = schema.outputs[0].type_str  # type: ignore[attr-defined]
    return f"tensor({low.name.lower()})" in constraints.get(formal, [formal])


def _out_of_range(graph: Graph, ranges: Ranges | None) -> list[tuple[ir.Value, str]]:
    main = graph.model.graph
    found: list[tuple[ir.Value, str]] = []
    for value in main.initializers.values():
        tensor = constant(value)
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        found += _constant_reasons(value, np.abs(tensor.numpy()))
    if ranges is None:
        return found
    for value in [*main.inputs, *(v for node in main for v in node.outputs)]:
        seen = ranges.get(str(value.name))
        if seen is not None and np.isfinite(seen.magnitude) and seen.magnitude > _FP16_MAX / _HEADROOM:
            found.append((value, f"{value.name} reaches {seen.magnitude:.3g}"))
    return found


def _constant_reasons(
    value: ir.Value, magnitude: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> list[tuple[ir.Value, str]]:
    finite = magnitude[np.isfinite(magnitude)]
    if finite.size == 0 or finite.max() == 0:
        return []
    if finite.max() > _FP16_MAX:
        return [(value, f"the constant {value.name} is {finite.max():.3g}")]
    readers = [node for node in consumers(value) if node.op_type in _EPSILON_READERS]
    if finite.size == 1 and finite.max() < _FP16_SMALLEST and readers:
        reason = f"the constant {value.name} is {finite.max():.3g}, which FP16 rounds to zero"
        # what an epsilon protects comes after its addition
        return [(value, reason), *((v, reason) for node in readers for v in node.outputs)]
    return []
