"""Writes ONNX Runtime's quantized operators as the float operators that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.errors import GraphError
from edgebig.graph.graph import Graph
from edgebig.graph.passes.base import PassReport, difference, operators
from edgebig.graph.passes.remove_quantization import MOVING
from edgebig.graph.values import constant, consumers, new_initializer

Array = np.ndarray[Any, Any]
_OPAQUE = {"QAttention", "QEmbedLayerNormalization", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
_OPAQUE |= {"DynamicQuantizeLSTM", "QLinearReduceMean", "MatMulNBits", "GatherBlockQuantized"}
_INTEGER = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
_UNARY = {"Sigmoid", "LeakyRelu", "Softmax", "GlobalAveragePool", "AveragePool"}
_BINARY = {"Add", "Mul"}
_TRIPLES = {"MatMul": 2, **dict.fromkeys(_BINARY, 2), **dict.fromkeys(_UNARY, 1)}


@dataclass(frozen=True)
class ExpandQOperators:
    """``QLinearX(x, s, z, .., s', z') = Q(X(DQ(x, s, z), ..), s', z')``, as their definitions have it.

    ``MatMulInteger(x, w, a, b)`` of ``x, s, a = DynamicQuantizeLinear(v)`` is ``MatMul(v, w - b) / s`` but for the
    rounding of v; its result is multiplied by s, so that both vanish. So it is with ``ConvInteger``. The definitions
    are ONNX's and, of the domain com.microsoft, those of ONNX Runtime's ``ContribOperators.md``.
    """

    name = "expand quantized operators"

    def __call__(self, graph: Graph) -> PassReport:
        before = operators(graph)
        for node in graph.nodes():
            if node.op_type in _OPAQUE or node.op_type.startswith("QOrdered"):
                raise GraphError(
                    f"{node.name or node.outputs[0].name} is a {node.op_type}, which ONNX Runtime alone computes: "
                    "give the model as it was before it was quantized or optimized"
                )
        for node in list(graph.model.graph):
            if node.op_type == "DynamicQuantizeLinear":
                _drop_dynamic(graph, node)
        for node in list(graph.model.graph):
            if node.op_type in _INTEGER:
                _expand_integer(graph, node)
            elif node.op_type.startswith("QLinear") or node.op_type == "QGemm":
                _Expansion(graph, node).expand()
        if not any(n.domain == "com.microsoft" for n in graph.nodes()):
            graph.model.opset_imports.pop("com.microsoft", None)
        return PassReport(self.name, difference(before, operators(graph)))


class _Expansion:
    """Replaces one operator."""

    def __init__(self, graph: Graph, node: ir.Node) -> None:
        self._graph, self._node = graph, node
        self._name = node.name or str(node.outputs[0].name)
        self._new: list[ir.Node] = []

    def expand(self) -> None:
        node, kind = self._node, self._node.op_type.removeprefix("QLinear")
        attributes = [a for a in node.attributes.values() if a.name not in {"channels_last", "opset"}]
        if node.attributes.get_int("channels_last", 0):
            raise GraphError(f"{self._name} has its channels last: quantize the model for a CPU, without NHWC")
        if kind == "Conv":
            inputs = [self._real(0), self._real(3, axis=0), *self._bias(8, (1, 4))]
            self._finish(kind, inputs, attributes, 6)
        elif kind == "QGemm":
            axis = 0 if node.attributes.get_int("transB", 0) else 1
            self._finish("Gemm", [self._real(0), self._real(3, axis=axis), *self._bias(6, (1, 4))], attributes, 7)
        elif kind == "Concat":
            self._finish(kind, [self._real(i) for i in range(2, len(node.inputs), 3)], attributes, 0)
        elif kind == "Where":
            self._finish(kind, [node.inputs[0], self._real(1), self._real(4)], attributes, 7)
        elif kind in _TRIPLES:
            if kind == "Softmax" and node.attributes.get_int("opset", 13) < 13:
                raise GraphError(f"{self._name} is a softmax of opset 12 or older: quantize the model in opset 13")
            count = _TRIPLES[kind]
            inputs = [self._real(3 * i, axis=-1 if kind == "MatMul" else None) for i in range(count)]
            self._finish(kind, inputs, attributes, 3 * count)
        else:
            raise GraphError(f"{self._name} is a {node.op_type}: give the model as it was before it was quantized")

    def _input(self, index: int) -> ir.Value | None:
        return self._node.inputs[index] if index < len(self._node.inputs) else None

    def _real(self, first: int, axis: int | None = None) -> ir.Value:
        """DequantizeLinear of an input, whose scale and zero point follow it; ``axis`` where there are several."""
        scale = self._input(first + 1)
        several = scale is not None and scale.shape is not None and len(scale.shape) == 1 and scale.shape[0] != 1
        attributes = [ir.AttrInt64("axis", axis)] if several and axis is not None else []
        inputs = [
            _scalar(self._graph, self._input(first + i)) if i and not several else self._input(first + i)
            for i in range(3)
        ]
        return self._add("DequantizeLinear", inputs, attributes, f"in{first}", ir.DataType.FLOAT)

    def _bias(self, index: int, scales: tuple[int, int]) -> list[ir.Value]:
        """An INT32 bias: its scale is the product of those of the input and the weight."""
        bias = self._input(index)
        if bias is None:
            return []
        found = [constant(v) for v in (bias, *map(self._input, scales))]
        if any(tensor is None for tensor in found):
            raise GraphError(f"{self._name}: its bias or scales are computed, not constants")
        values, one, other = (t.numpy() for t in found if t is not None)
        scale = np.float32(one.reshape(-1)[0]) * other.astype(np.float32).reshape(-1)
        real = (values.astype(np.float64) * scale.astype(np.float64)).astype(np.float32)
        return [new_initializer(self._graph, f"{self._name}/bias", real)]

    def _finish(self, kind: str, inputs: Sequence[ir.Value | None], attributes: list[ir.Attr], scale: int) -> None:
        node, old = self._node, self._node.outputs[0]
        result = self._add(kind, inputs, attributes, "float", ir.DataType.FLOAT)
        if self._input(scale) is not None:
            parameters = [_scalar(self._graph, self._input(scale + i)) for i in range(2)]
            zero = parameters[1]
            dtype = zero.dtype if zero is not None and zero.dtype is not None else ir.DataType.UINT8
            result = self._add("QuantizeLinear", [result, *parameters], [], "quantized", dtype)
        result.shape = old.shape
        main, name = self._graph.model.graph, old.name
        main.insert_before(node, self._new)
        ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
        main.remove(node, safe=True)
        result.name = name

    def _add(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: list[ir.Attr],
        suffix: str,
        dtype: ir.DataType,
    ) -> ir.Value:
        node = ir.Node("", kind, inputs, attributes, name=f"{self._name}/{suffix}")
        node.outputs[0].name = f"{self._name}/{suffix}/value"
        node.outputs[0].type = ir.TensorType(dtype)
        self._new.append(node)
        return node.outputs[0]


def _scalar(graph: Graph, value: ir.Value | None) -> ir.Value | None:
    """A scale or zero point of one element, as a scalar: QuantizeLinear takes no vector of one."""
    tensor = constant(value)
    if tensor is None or value is None or len(tensor.shape) == 0:
        return value
    return new_initializer(graph, f"{value.name}/scalar", tensor.numpy().reshape(()), tensor.dtype)


def _drop_dynamic(graph: Graph, node: ir.Node) -> None:
    """Readers get the float itself, with the scale 1 and the zero point 0."""
    value = node.inputs[0]
    if value is None:
        raise GraphError(f"{node.name} has no input")
    scale = new_initializer(graph, f"{node.name}/scale", np.array(1, np.float32))
    zero = new_initializer(graph, f"{node.name}/zero_point", np.array(0, np.uint8))
    for old, new in zip(node.outputs, (value, scale, zero), strict=False):
        ir.convenience.replace_all_uses_with(old, new)
    _make_float(value)
    graph.model.graph.remove(node, safe=True)


def _make_float(value: ir.Value) -> None:
    """What only moves the value gives floats too."""
    for reader in consumers(value):
        for output in reader.outputs if reader.op_type in MOVING else ():
            if output.dtype != ir.DataType.FLOAT:
                output.type = ir.TensorType(ir.DataType.FLOAT)
                _make_float(output)


def _expand_integer(graph: Graph, node: ir.Node) -> None:
    """MatMulInteger or ConvInteger of a float that was quantized when the model ran, and a constant weight."""
    value, name = node.inputs[0], node.name or str(node.outputs[0].name)
    weight = constant(node.inputs[1])
    zero = node.inputs[3] if len(node.inputs) > 3 else None
    offset = constant(zero)
    if value is None or value.dtype not in (None, ir.DataType.FLOAT) or weight is None or (zero and offset is None):
        raise GraphError(
            f"{name} multiplies integers that no DynamicQuantizeLinear made, or a weight that is computed: "
            "give the model as it was before it was quantized"
        )
    shift = np.zeros((), np.float32) if offset is None else offset.numpy().astype(np.float32)
    scale, kind = _scale_after(node), _INTEGER[node.op_type]
    if scale is not None and kind == "Conv" and scale[1].size > 1:
        scale = None  # the product with one scale for each channel stays
    if kind == "Conv" and shift.ndim:
        shift = shift.reshape(-1, *[1] * (len(weight.shape) - 1))
    real = (weight.numpy().astype(np.float32) - shift) * (np.float32(1) if scale is None else scale[1])
    inputs = [value, new_initializer(graph, f"{name}/weight", real)]
    product = ir.Node("", kind, inputs, list(node.attributes.values()), name=name)
    result, old = product.outputs[0], node.outputs[0]
    result.name, result.shape, result.type = f"{name}/product", old.shape, ir.TensorType(ir.DataType.FLOAT)
    main = graph.model.graph
    main.insert_before(node, product)
    if scale is not None:
        last = scale[0].outputs[0]
        result.name, last.name = last.name, f"{last.name}/scaled"
        result.shape = last.shape
        ir.convenience.replace_all_uses_with(last, result, replace_graph_outputs=True)
        main.remove(scale[0], safe=True)
    for user, index in list(old.uses()):
        # the Cast to float does nothing any more
        user.replace_input_with(index, result)
    main.remove(node, safe=True)


def _scale_after(node: ir.Node) -> tuple[ir.Node, Array] | None:
    """The product with the scales that follows, where its factor is a constant, so that the weight can take it."""
    value = node.outputs[0]
    for _ in range(2):
        readers = [user for user, _ in value.uses()]
        if len(readers) != 1 or value.is_graph_output():
            return None
        after = readers[0]
        if after.op_type == "Cast":
            value = after.outputs[0]
            continue
        if after.op_type != "Mul":
            return None
        other = after.inputs[1] if after.inputs[0] is value else after.inputs[0]
        factor = _folded(other)
        return None if factor is None or factor.ndim > 1 else (after, factor.astype(np.float32))
    return None


def _folded(value: ir.Value | None) -> Array | None:
    """A constant, or the product of two."""
    tensor = constant(value)
    if tensor is not None:
        return np.asarray(tensor.numpy())
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "Mul":
        return None
    factors = [constant(v) for v in producer.inputs]
    if any(f is None for f in factors):
        return None
    one, other = (f.numpy() for f in factors if f is not None)
    return np.asarray(one * other)
