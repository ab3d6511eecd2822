"""What each node of a graph has to do: multiply-accumulates, and bytes that it reads and writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph.execute import Executor
from edgebig.graph.graph import Graph
from edgebig.graph.values import static_shape

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
_SHAPE_OF = "/shape of "
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_PAST_KEY = 4
"""Index of Attention's input with the keys of earlier tokens (ONNX, opset 23)."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of a node's inputs (weights included) and of its outputs, each counted once."""

    read: int
    written: int


def observed_shapes(graph: Graph, sample: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Shape]:
    """The shape of every tensor of the main graph in one run, its inputs and weights included.

    The run hands out shapes alone, so it needs no more memory than any other. Tensors in FP8 are left out, since ONNX
    Runtime does not tell their shapes.

    Raises:
        GraphError: the sample does not fit.
    """
    probed = graph.clone()
    main = probed.model.graph
    found = {str(v.name): static_shape(v.shape) or () for v in main.initializers.values()}
    found |= {str(v.name): tuple(sample[str(v.name)].shape) for v in main.inputs if v.name in sample}
    values = [v for node in list(main) for v in node.outputs if v.name and _has_shape_kernel(v)]
    shape_type = ir.TensorType(ir.DataType.INT64)
    main.outputs.clear()
    for value in values:
        node = ir.Node("", "Shape", [value], name=f"{_SHAPE_OF}{value.name}")
        node.outputs[0].name, node.outputs[0].type = f"{_SHAPE_OF}{value.name}", shape_type
        main.append(node)
        main.outputs.append(node.outputs[0])
    if values:
        with Executor(probed, "off") as executor:
            answers = executor.run(sample)
        found |= {name.removeprefix(_SHAPE_OF): tuple(map(int, shape)) for name, shape in answers.items()}
    return found


def _has_shape_kernel(value: ir.Value) -> bool:
    if isinstance(value.type, ir.SequenceType):
        return False
    if value.dtype is None:
        producer = value.producer()
        return producer is None or producer.op_type != "QuantizeLinear"
    return not (value.dtype.is_floating_point() and value.dtype.bitwidth <= 8)


def macs(graph: Graph, shapes: Shapes) -> dict[str, int]:
    """Multiply-accumulates of each node of the main graph that has any, by the node's name.

    Counted are matrix products and convolutions (MatMul, Gemm, Einsum, Conv, ConvTranspose, Attention, LSTM,
    GRU, RNN); what works on single elements is left out.

    Args:
        graph: with named nodes.
        shapes: of the tensors, as :func:`observed_shapes` gives them; a tensor that is not there has the shape
            that the graph states, and its node is left out where that is dynamic.
    """
    found = {}
    for node in graph.model.graph:
        count = _macs_of(node, shapes)
        if count:
            found[str(node.name)] = count
    return found


def traffic(graph: Graph, shapes: Shapes) -> dict[str, Traffic]:
    """Bytes that each node of the main graph reads and writes, by the node's name; shapes as in :func:`macs`."""
    return {
        str(node.name): Traffic(
            sum(_bytes(value, shapes) for value in {id(v): v for v in node.inputs if v is not None}.values()),
            sum(_bytes(value, shapes) for value in node.outputs),
        )
        for node in graph.model.graph
    }


def _macs_of(node: ir.Node, shapes: Shapes) -> int:
    ins = [_shape(value, shapes) for value in node.inputs]
    out = _shape(node.outputs[0], shapes) if node.outputs else None
    first, second = (*ins, None, None)[:2]
    if node.op_type in _GATES:
        return _recurrent(node, first, ins)
    if node.op_type == "Einsum":
        return _einsum(node, ins)
    if first is None or second is None or out is None:
        return 0
    if node.op_type == "MatMul":
        return math.prod(out) * first[-1]
    if node.op_type == "Gemm":
        return math.prod(out) * first[0 if node.attributes.get_int("transA", 0) else 1]
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    if node.op_type == "Attention" and not node.domain:
        past = ins[_PAST_KEY] if len(ins) > _PAST_KEY else None
        keys = second[-2] + (past[-2] if past is not None else 0)
        return (math.prod(first) + math.prod(out)) * keys
    return 0


def _recurrent(node: ir.Node, first: Shape | None, ins: list[Shape | None]) -> int:
    """Each step multiplies the input by W and the state by R, ``directions x gates * hidden x ...`` both."""
    weights = ins[1:3]
    if first is None or None in weights:
        return 0
    return first[0] * first[1] * sum(math.prod(shape) for shape in weights if shape is not None)


def _einsum(node: ir.Node, ins: list[Shape | None]) -> int:
    """The product of the sizes of all its labels, where no label stands for several axes."""
    terms = node.attributes.get_string("equation", "").replace(" ", "").split("->")[0].split(",")
    if len(terms) < 2 or "..." in "".join(terms) or None in ins:
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, ins, strict=True):
        sizes |= zip(term, shape or (), strict=True)
    return math.prod(sizes.values())


def _shape(value: ir.Value | None, shapes: Shapes) -> Shape | None:
    if value is None:
        return None
    known = shapes.get(str(value.name))
    return known if known is not None else static_shape(value.shape)


def _bytes(value: ir.Value, shapes: Shapes) -> int:
    shape = _shape(value, shapes)
    if shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        return 0
    return math.ceil(math.prod(shape) * value.dtype.itemsize)
