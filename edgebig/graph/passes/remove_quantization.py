"""Takes QuantizeLinear and DequantizeLinear out of a graph and keeps the ranges that they stood for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from edgebig.errors import GraphError
from edgebig.graph.graph import Graph
from edgebig.graph.passes.base import PassReport, difference, operators
from edgebig.graph.shapes import infer_shapes
from edgebig.graph.values import constant, new_initializer

Array = np.ndarray[Any, Any]
_Meaning = tuple[bytes, bytes]

MOVING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "GatherND", "MaxPool", "Split"}
MOVING |= {"Expand", "Identity", "Tile", "DepthToSpace", "SpaceToDepth", "Concat"}
"""Operators that only move values, whatever they stand for."""

_NOT_NEGATIVE = {"Relu", "Sigmoid", "Softmax", "Abs", "Exp", "HardSigmoid"}
_LIMITS = {"INT8": (-128, 127), "UINT8": (0, 255), "INT16": (-32768, 32767), "UINT16": (0, 65535)}
_LIMITS |= {"FLOAT8E4M3FN": (-448, 448), "INT4": (-8, 7), "UINT4": (0, 15)}
_LEGAL = {"INT8", "FLOAT8E4M3FN", "INT4", "FLOAT4E2M1"}
_PAIR = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class RemoveQuantization:
    """``DQ(Q(x)) = x`` but for rounding and clipping; ``DQ(w) = (w - z) s`` of a constant w, exactly.

    Where the smallest quantized value stands for 0 a Relu or Clip may have been left to the quantization to do, as ONNX
    Runtime's quantizer does: a Clip takes its place, unless what comes before is not negative. A Clip to negative
    values that was left out cannot be told from a range that calibration found, and is not put back.

    Attributes:
        ranges: filled with the smallest and largest value of each tensor that was quantized, by its name.
    """

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    name = "remove quantization"

    def __call__(self, graph: Graph) -> PassReport:
        before = operators(graph)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph.model)
        main = graph.model.graph
        if any(n.op_type in _PAIR and n.graph is not main for n in graph.nodes()):
            raise GraphError("quantized operators within the branches of an If or Loop: give the model before it was")
        meanings: dict[int, set[_Meaning]] = {}
        for node in list(main):
            if node.op_type == "QuantizeLinear":
                self._quantize(graph, node, meanings)
            elif node.op_type == "DequantizeLinear":
                _dequantize(graph, node, meanings)
            elif node.op_type in MOVING:
                self._move(node, meanings)
        RemoveUnusedNodesPass()(graph.model)
        infer_shapes(graph)
        return PassReport(self.name, difference(before, operators(graph)))

    def _quantize(self, graph: Graph, node: ir.Node, meanings: dict[int, set[_Meaning]]) -> None:
        value, quantized = node.inputs[0], node.outputs[0]
        scale, zero = _parameters(node)
        if value is None or quantized.is_graph_output():
            raise GraphError(f"{node.name} gives a quantized output of the model: give a model with float outputs")
        if scale.size != 1:
            raise GraphError(f"{node.name} quantizes an activation with {scale.size} scales: give the float model")
        kind = _kind(node, quantized)
        low, high = _range(kind, float(scale.reshape(())), float(zero.reshape(())))
        if low == 0 and not _is_positive(value):
            value = _clip(graph, node, value, high)
        meanings.setdefault(id(value), set()).add(_meaning(scale, zero))
        self.ranges[str(value.name)] = (low, high)
        ir.convenience.replace_all_uses_with(quantized, value)
        graph.model.graph.remove(node, safe=True)

    def _move(self, node: ir.Node, meanings: dict[int, set[_Meaning]]) -> None:
        """What is only moved keeps its meaning, and becomes a float with it."""
        data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        common = set.intersection(*(meanings.get(id(v), set()) for v in data)) if data else set()
        for output in node.outputs if common else ():
            if output.dtype is None or output.dtype.name in _LIMITS:
                output.type = ir.TensorType(ir.DataType.FLOAT)
                meanings[id(output)] = common
                if data[0] is not None:
                    self.ranges[str(output.name)] = self.ranges[str(data[0].name)]


def is_quantized(graph: Graph) -> bool:
    """Whether a graph holds quantized operators or Q/DQ pairs."""
    known = {*_PAIR, "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QGemm", "QAttention"}
    return any(node.op_type in known or node.op_type.startswith("QLinear") for node in graph.nodes())


def is_for_tensorrt(graph: Graph) -> bool:
    """Whether TensorRT takes a quantized graph's Q/DQ pairs as they are: symmetric, of the types that it has."""
    for node in graph.nodes():
        if node.op_type in {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"} or node.domain == "com.microsoft":
            return False
        if node.op_type.startswith("QLinear"):
            return False
        if node.op_type in _PAIR:
            quantized = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
            zero = _constant_of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
            if zero is None or np.any(zero.astype(np.float32)) or _kind(node, quantized) not in _LEGAL:
                return False
    return True


def _constant_of(value: ir.Value | None) -> Array | None:
    """An initializer's or a Constant's array."""
    tensor = constant(value)
    if tensor is None and value is not None and (producer := value.producer()) is not None:
        attribute = producer.attributes.get("value") if producer.op_type == "Constant" else None
        tensor = attribute.as_tensor() if attribute is not None else None
    return None if tensor is None else np.asarray(tensor.numpy())


def _parameters(node: ir.Node) -> tuple[Array, Array]:
    scale = _constant_of(node.inputs[1])
    zero = _constant_of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    if scale is None or zero is None:
        raise GraphError(f"the scale or zero point of {node.name} is computed, not a constant: give the float model")
    return scale.astype(np.float32), zero.astype(np.float32)


def _kind(node: ir.Node, quantized: ir.Value | None) -> str:
    """The quantized type: of the zero point, else of the value, else UINT8."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    dtype = zero.dtype if zero is not None and zero.dtype is not None else quantized.dtype if quantized else None
    return (dtype or ir.DataType.UINT8).name


def _range(kind: str, scale: float, zero: float) -> tuple[float, float]:
    low, high = ((limit - zero) * scale for limit in _LIMITS.get(kind, (-128, 127)))
    # one more step below zero than above: the same scale comes out of the range again
    return (-high if abs(low + high + scale) < scale / 2 else low), high


def _meaning(scale: Array, zero: Array) -> _Meaning:
    return scale.reshape(-1).tobytes(), zero.reshape(-1).astype(np.float32).tobytes()


def _is_positive(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is None:
        return False
    if producer.op_type == "Clip":
        low = _constant_of(producer.inputs[1]) if len(producer.inputs) > 1 else None
        return low is not None and float(low.reshape(())) >= 0
    if producer.op_type not in MOVING:
        return producer.op_type in _NOT_NEGATIVE
    moved = producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]
    return all(v is not None and _is_positive(v) for v in moved)


def _clip(graph: Graph, node: ir.Node, value: ir.Value, high: float) -> ir.Value:
    dtype = value.dtype or ir.DataType.FLOAT
    limits = [
        new_initializer(graph, f"{value.name}/clip/{name}", np.array(limit, dtype.numpy()))
        for name, limit in (("min", 0.0), ("max", high))
    ]
    clip = ir.Node("", "Clip", [value, *limits], name=f"{value.name}/clip")
    clip.outputs[0].name = f"{value.name}/clipped"
    clip.outputs[0].type, clip.outputs[0].shape = value.type, value.shape
    graph.model.graph.insert_before(node, clip)
    return clip.outputs[0]


def _dequantize(graph: Graph, node: ir.Node, meanings: dict[int, set[_Meaning]]) -> None:
    value, result, main = node.inputs[0], node.outputs[0], graph.model.graph
    scale, zero = _parameters(node)
    if value is None:
        raise GraphError(f"{node.name} has no input")
    stored = constant(value)
    if stored is not None:
        real = new_initializer(graph, f"{value.name}/{node.name}", _real(node, np.asarray(stored.numpy()), scale, zero))
    elif _meaning(scale, zero) in meanings.get(id(value), set()):
        real = value
    elif value.dtype == ir.DataType.FLOAT and scale.size == 1 and (scale.item(), zero.item()) == (1, 0):
        real = value  # it was quantized when the model ran
    else:
        real = _from_table(graph, node, value, scale, zero)
    if result.is_graph_output():
        keep = ir.Node("", "Identity", [real], name=f"{node.name}/identity")
        name = result.name
        result.name = f"{name}/dequantized"
        keep.outputs[0].name, keep.outputs[0].type, keep.outputs[0].shape = name, result.type, result.shape
        main.insert_before(node, keep)
        real = keep.outputs[0]
    ir.convenience.replace_all_uses_with(result, real, replace_graph_outputs=True)
    main.remove(node, safe=True)


def _from_table(graph: Graph, node: ir.Node, value: ir.Value, scale: Array, zero: Array) -> ir.Value:
    """Of values that were only moved since they were a constant, as an embedding's rows: the constant is made float."""
    moves: list[ir.Node] = []
    table: ir.Value | None = value
    while table is not None and (producer := table.producer()) is not None and producer.op_type in MOVING:
        moves.append(producer)
        table = producer.inputs[0]
    stored = constant(table)
    if stored is None or table is None or scale.size != 1 or any(move.op_type in {"Concat", "Split"} for move in moves):
        raise GraphError(
            f"{node.name} reads integers that no QuantizeLinear of the same scale made: "
            "give the model as it was before it was quantized"
        )
    real = new_initializer(graph, f"{table.name}/float", _real(node, np.asarray(stored.numpy()), scale, zero))
    for move in reversed(moves):
        copy = ir.Node("", move.op_type, [real, *move.inputs[1:]], list(move.attributes.values()))
        copy.name = f"{move.name}/float"
        real = copy.outputs[0]
        real.name, real.type = f"{move.outputs[0].name}/float", ir.TensorType(ir.DataType.FLOAT)
        real.shape = move.outputs[0].shape
        graph.model.graph.insert_before(node, copy)
    return real


def _real(node: ir.Node, values: Array, scale: Array, zero: Array) -> Array:
    """``(w - z) s`` with one scale, one for each index of ``axis``, or one for each block along it."""
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)

    def spread(parameter: Array) -> Array:
        if parameter.size == 1:
            return parameter.reshape(())
        if block:
            return np.repeat(parameter, block, axis=axis).take(range(values.shape[axis]), axis=axis)
        shape = [1] * values.ndim
        shape[axis] = -1
        return parameter.reshape(shape)

    return ((values.astype(np.float32) - spread(zero)) * spread(scale)).astype(np.float32)
