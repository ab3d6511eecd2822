"""Cuts pieces out of a graph, at tensors that another graph has too."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgebig.graph import Graph
from edgebig.graph.values import constant

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}
_QUANTIZED = "/quantized"
_AFTER_SHAPE = {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Identity"}
_OUTPUT_SCALE = {"QuantizeLinear": 1, "QLinearConv": 6, "QLinearMatMul": 6, "QLinearAdd": 6, "QLinearMul": 6}
_OUTPUT_SCALE |= {"QLinearConcat": 0, "QGemm": 7, "QLinearSigmoid": 3, "QLinearLeakyRelu": 3, "QLinearSoftmax": 3}
_OUTPUT_SCALE |= {"QLinearGlobalAveragePool": 3, "QLinearAveragePool": 3}
"""Index of the input that holds the output's scale (ONNX's operators and ONNX Runtime's own)."""


@dataclass(frozen=True)
class Piece:
    """A piece of a graph, as a graph of its own.

    Attributes:
        graph: takes the tensors at which it was cut, by their names.
        outputs: for each tensor that it computes, the name of the graph's output.
        nodes: names of the nodes in it.
    """

    graph: Graph
    outputs: dict[str, str]
    nodes: tuple[str, ...]


def shared_tensors(reference: Graph, graph: Graph) -> list[str]:
    """Names of the float tensors that nodes of both main graphs write, in the reference's order."""
    other = {str(v.name) for v in _written(graph) if v.dtype in FLOATS}
    return [str(v.name) for v in _written(reference) if v.dtype in FLOATS and v.name in other]


def with_outputs(graph: Graph, names: Iterable[str]) -> Graph:
    """A copy whose outputs are those tensors of its main graph."""
    copy = graph.clone()
    values = {str(v.name): v for v in _written(copy)}
    copy.model.graph.outputs.clear()
    copy.model.graph.outputs.extend(values[name] for name in names)
    return copy


def cut(graph: Graph, boundary: Collection[str], targets: Sequence[str]) -> Piece:
    """What computes ``targets`` from the tensors of ``boundary`` and from the graph's inputs.

    Args:
        graph: left as it is.
        boundary: names of tensors that the piece takes instead of computing them for what reads them. A tensor
            that is a target too is still computed, from what lies before it. All are taken as float32, and
            cast to the type that the graph has them in.
        targets: names of tensors of the main graph.
    """
    copy = graph.clone()
    main = copy.model.graph
    values = {str(v.name): v for v in _written(copy)}
    outputs = {}
    main.outputs.clear()
    for name in [n for n in values if n in boundary]:
        value = values[name]
        given = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        ir.convenience.replace_all_uses_with(value, _cast(copy, given, value.dtype))
        main.inputs.append(given)
        value.name = f"{name}/computed"
    for name in targets:
        outputs[name] = str(values[name].name)
        main.outputs.append(values[name])
    made = {str(node.name) for node in main} - {str(node.name) for node in graph.model.graph}
    RemoveUnusedNodesPass()(copy.model)
    for value in [v for v in main.inputs if not v.uses() and not v.is_graph_output()]:
        main.inputs.remove(value)
    return Piece(copy, outputs, tuple(str(n.name) for n in main if n.name not in made))


def with_float_inputs(graph: Graph) -> Graph:
    """A copy that takes float32 where the graph takes other floats, and casts."""
    copy = graph.clone()
    inputs = copy.model.graph.inputs
    for index, value in enumerate(list(inputs)):
        if value.dtype in FLOATS - {ir.DataType.FLOAT}:
            given = ir.Value(name=value.name, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
            ir.convenience.replace_all_uses_with(value, _cast(copy, given, value.dtype), replace_graph_outputs=True)
            inputs[index] = given
    return copy


def expose_quantized(graph: Graph, names: Collection[str]) -> Graph:
    """A copy in which tensors that exist only quantized exist as floats too.

    ONNX Runtime's integer operators hand ``NAME/quantized`` on. It is dequantized to ``NAME`` and quantized
    again with the same scale, which gives the same integers.

    Args:
        graph: left as it is.
        names: the float tensors that are looked for; those that are there already stay.
    """
    copy = graph.clone()
    there = {str(v.name) for v in _written(copy)}
    for value in _written(copy):
        name = str(value.name)
        wanted = name.removesuffix(_QUANTIZED)
        if name == wanted or wanted in there or wanted not in names:
            continue
        scale = _scale_of(value)
        producer = value.producer()
        # standard Q/DQ pairs begin at a float tensor of another name
        if scale is None or producer is None or producer.op_type == "QuantizeLinear":
            continue
        plain = ir.Node("", "DequantizeLinear", [value, *scale], name=f"{wanted}/expose")
        plain.outputs[0].name, plain.outputs[0].shape = wanted, value.shape
        plain.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        again = ir.Node("", "QuantizeLinear", [plain.outputs[0], *scale], name=f"{wanted}/requantize")
        again.outputs[0].name, again.outputs[0].shape, again.outputs[0].type = f"{name}/again", value.shape, value.type
        ir.convenience.replace_all_uses_with(value, again.outputs[0], replace_graph_outputs=True)
        plain.replace_input_with(0, value)
        copy.model.graph.insert_after(producer, [plain, again])
    return copy


def _cast(graph: Graph, value: ir.Value, wanted: ir.DataType | None) -> ir.Value:
    """The value in the wanted type, by a node at the graph's start."""
    if wanted in (None, ir.DataType.FLOAT):
        return value
    attributes = [ir.AttrInt64("to", int(wanted or 0))]
    cast = ir.Node("", "Cast", [value], attributes, name=f"{value.name}/given")
    cast.outputs[0].name, cast.outputs[0].shape = f"{value.name}/given", value.shape
    cast.outputs[0].type = ir.TensorType(wanted or ir.DataType.FLOAT)
    main = graph.model.graph
    main.insert_before(main[0], cast)
    return cast.outputs[0]


def _scale_of(value: ir.Value) -> tuple[ir.Value | None, ir.Value | None] | None:
    """Scale and zero point of a quantized tensor, from what writes it."""
    node = value.producer()
    while node is not None and node.op_type in _AFTER_SHAPE and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    index = _OUTPUT_SCALE.get(node.op_type) if node is not None else None
    if node is None or index is None or len(node.inputs) < index + 2:
        return None
    scale, zero = node.inputs[index], node.inputs[index + 1]
    found = constant(scale)
    return (scale, zero) if found is not None and found.size == 1 else None


def _written(graph: Graph) -> list[ir.Value]:
    return [v for node in graph.model.graph for v in node.outputs if v.name]
