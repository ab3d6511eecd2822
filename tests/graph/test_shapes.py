"""infer_shapes: shapes follow from the inputs, whatever was written there before."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from textnets import as_graph, as_model, net, normal

from edgebig.graph import Graph
from edgebig.graph.graph import shape_of
from edgebig.graph.shapes import infer_shapes


def shapes(graph: Graph) -> dict[str, object]:
    return {str(v.name): shape_of(v) for n in graph.nodes() for v in n.outputs}


def test_every_value_gets_a_shape() -> None:
    graph = as_graph(net("float[N,3] x", "float[N,5] y", "h = MatMul(x, w) y = Relu(h)", {"w": normal(3, 5)}))
    infer_shapes(graph)
    assert shapes(graph) == {"h": ("N", 5), "y": ("N", 5)}


def test_shapes_of_an_earlier_inference_are_forgotten() -> None:
    graph = as_graph(net("float[N,3] x", "float[N,3] y", "h = Relu(x) y = Neg(h)"))
    infer_shapes(graph)
    graph.model.graph.inputs[0].shape = ir.Shape([7, 3])
    infer_shapes(graph)
    assert shapes(graph) == {"h": (7, 3), "y": (7, 3)}
    graph.model.graph.inputs[0].shape = ir.Shape(["M", 3])
    infer_shapes(graph)
    assert shapes(graph)["h"] == ("M", 3)


def test_a_computed_reshape_is_followed_through_its_data() -> None:
    body = """s = Shape(x) zero = Constant<value = int64[1] {0}>() n = Gather(s, zero)
              rest = Constant<value = int64[1] {-1}>() to = Concat<axis = 0>(n, rest) y = Reshape(x, to)"""
    graph = as_graph(net("float[4,3,2] x", "float[A,B] y", body))
    infer_shapes(graph)
    assert shapes(graph)["y"] == (4, 6)


def test_an_output_keeps_its_rank_and_the_names_of_its_axes() -> None:
    graph = as_graph(
        net(
            "float[N,4] x",
            "float[found,4] y",
            "c = Greater(x, t) i = NonZero(c) j = Transpose(i) f = Cast<to = 1>(j) y = Concat<axis = 1>(f, f)",
            {"t": np.zeros((), np.float32)},
            check=False,
        )
    )
    infer_shapes(graph)
    assert shape_of(graph.model.graph.outputs[0]) == ("found", 4)
    as_model(graph)


def test_an_operator_that_inference_does_not_know_leaves_the_rest_alone() -> None:
    graph = as_graph(net("float[N,4] x", "float[N,4] y, float[M,2] z", "y = Relu(x) z = own.Secret(x)", check=False))
    graph.model.opset_imports["own"] = 1
    infer_shapes(graph)
    assert shapes(graph)["y"] == ("N", 4)
    assert len(shape_of(graph.model.graph.outputs[1]) or ()) == 2


def test_shapes_inside_branches_follow_too() -> None:
    body = """y = If(c) <then_branch = t () => (float[N,3] a) { h = Relu(x) a = Neg(h) },
        else_branch = e () => (float[N,3] b) { b = Neg(x) }>"""
    graph = as_graph(net("float[N,3] x, bool c", "float[N,3] y", body))
    graph.model.graph.inputs[0].shape = ir.Shape([2, 3])
    infer_shapes(graph)
    assert shapes(graph) == {"h": (2, 3), "a": (2, 3), "b": (2, 3), "y": (2, 3)}
    as_model(graph)
