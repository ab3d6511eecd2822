"""Questions about values and nodes."""

from __future__ import annotations

import numpy as np
from textnets import as_graph, net, normal

from edgebig.graph.shapes import infer_shapes
from edgebig.graph.values import constant, consumers, float_activations

BODY = "h = MatMul(x, w) s = Shape(h) k = Constant<value = float {2.0}>() m = Mul(h, k) y = Add(h, m)"


def test_float_activations_are_those_that_depend_on_the_inputs() -> None:
    graph = as_graph(net("float[N,3] x, int64[N] ids", "float[N,5] y, int64[2] s", BODY, {"w": normal(3, 5)}))
    infer_shapes(graph)
    names = [v.name for v in float_activations(graph)]
    assert [n for n in names if n != "k"] == ["x", "h", "m", "y"]


def test_only_an_initializer_is_constant() -> None:
    graph = as_graph(net("float[N,3] x", "float[N,5] y", "h = MatMul(x, w) y = Relu(h)", {"w": normal(3, 5)}))
    matmul, relu = graph.model.graph
    assert constant(matmul.inputs[0]) is None
    assert constant(relu.inputs[0]) is None
    assert constant(None) is None
    tensor = constant(matmul.inputs[1])
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), normal(3, 5))


def test_consumers_are_named_once_each_also_inside_branches() -> None:
    body = """h = Relu(x) d = Mul(h, h)
        y = If(c) <then_branch = t () => (float[2] a) { a = Add(h, d) },
            else_branch = e () => (float[2] b) { b = Neg(d) }>"""
    graph = as_graph(net("float[2] x, bool c", "float[2] y", body))
    relu = graph.model.graph[0]
    assert sorted(n.op_type for n in consumers(relu.outputs[0])) == ["Add", "Mul"]
    assert consumers(graph.model.graph.outputs[0]) == []
