"""Makes one Gemm of a matrix product and the addition of its bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgebig.graph.graph import Graph
from edgebig.graph.passes.base import PassReport
from edgebig.graph.values import constant, consumers, new_initializer


@dataclass(frozen=True)
class MakeGemms:
    """``Add(MatMul(x, W), b) = Gemm(x, W, b)`` for x with two axes, a constant matrix W and a constant vector b.

    ONNX Runtime does the same to float graphs by itself. Between Q/DQ pairs it has to be done before: of MatMul and
    Add with two axes it makes a Gemm with a float bias, for which it has no integer kernel; of a Gemm whose bias is
    INT32 it makes a QGemm. Products with more axes are left, since Gemm has two.
    """

    name = "make Gemms"

    def __call__(self, graph: Graph) -> PassReport:
        made, declined = 0, []
        for node in list(graph.model.graph):
            add = _addition(node)
            if add is None:
                continue
            why = _obstacle(node, add)
            if why is not None:
                declined.append(f"{node.name or node.outputs[0].name} stays a MatMul: {why}")
                continue
            _fuse(graph, node, add)
            made += 1
        changed = (f"{made} MatMul and Add became Gemm",) if made else ()
        return PassReport(self.name, changed, tuple(declined))


def _addition(node: ir.Node) -> ir.Node | None:
    """The Add of a constant that reads a product of a 2-D value and a constant matrix."""
    if node.op_type != "MatMul" or node.domain:
        return None
    first, weight = node.inputs[0], constant(node.inputs[1])
    if first is None or first.shape is None or len(first.shape) != 2 or constant(first) is not None:
        return None
    if weight is None or len(weight.shape) != 2 or weight.dtype != ir.DataType.FLOAT:
        return None
    for reader in consumers(node.outputs[0]):
        if reader.op_type == "Add" and not reader.domain and _bias(node, reader) is not None:
            return reader
    return None


def _bias(node: ir.Node, add: ir.Node) -> ir.TensorProtocol | None:
    others = [v for v in add.inputs if v is not node.outputs[0]]
    return constant(others[0]) if len(others) == 1 else None


def _obstacle(node: ir.Node, add: ir.Node) -> str | None:
    """Why the two do not become one; ``None`` where they do."""
    value, weight, bias = node.outputs[0], constant(node.inputs[1]), _bias(node, add)
    if value.is_graph_output() or len(consumers(value)) > 1:
        return "its result is used without the bias too"
    shape = tuple(bias.shape.numpy()) if bias is not None else ()
    columns = int(weight.shape.numpy()[1]) if weight is not None else 0
    if shape not in {(columns,), (1, columns)}:
        return f"what is added has the shape {shape}, not ({columns},)"
    return None


def _fuse(graph: Graph, node: ir.Node, add: ir.Node) -> None:
    bias = _bias(node, add)
    assert bias is not None  # _addition() found it
    (value,) = (v for v in add.inputs if v is not node.outputs[0])
    if len(bias.shape) != 1:
        assert value is not None
        value = new_initializer(graph, f"{value.name}/vector", np.asarray(bias.numpy()).reshape(-1))
    gemm = ir.Node("", "Gemm", [*node.inputs, value], name=node.name)
    new, old = gemm.outputs[0], add.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    main = graph.model.graph
    main.insert_before(add, gemm)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    main.remove([add, node], safe=True)
