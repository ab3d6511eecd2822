"""SetShapes: axes of one name stay one size, and all else follows."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textnets import as_graph, as_model, assert_same, net, normal

from edgebig.errors import UsageError
from edgebig.graph.graph import shape_of
from edgebig.graph.passes import PassReport, SetShapes
from edgebig.spec import Dim

PAIR = net("float[N,T] a, float[N,4] b, float[T,4] w", "float[N,4] y", "h = MatMul(a, w) y = Add(h, b)")


def test_a_size_holds_wherever_its_name_occurs() -> None:
    graph = as_graph(PAIR)
    report = SetShapes({"a": (2, "T")})(graph)
    assert report == PassReport("set shapes", ("a: NxT became 2xT", "b: Nx4 became 2x4"))
    assert [s.shape for s in graph.inputs] == [(2, "T"), (2, 4), ("T", 4)]
    assert graph.outputs[0].shape == (2, 4)


@pytest.mark.parametrize(
    ("given_shapes", "mask"),
    [
        ({"a": (2, 8)}, "past + 8"),
        ({"b": (2, 64)}, "64 + new"),
        ({"a": (2, 8), "b": (2, 64)}, 72),
        ({"c": (2, 3)}, "past + new"),
    ],
)
def test_a_size_holds_in_sums_of_names(given_shapes: dict[str, tuple[Dim, ...]], mask: Dim) -> None:
    nodes = "h = Concat<axis = 1>(b, a) s = Add(h, m) t = ReduceSum<keepdims = 0>(c) y = Add(s, t)"
    inputs = "float[N,new] a, float[N,past] b, float[N,other] c, float[N,mask] m"
    graph = as_graph(net(inputs, "float[N,all] y", nodes))
    graph.require_input("m").shape = ir.Shape(["N", "past + new"])
    SetShapes(given_shapes)(graph)
    assert graph.inputs[3].shape == (2, mask)


@pytest.mark.parametrize(
    ("name", "becomes"),
    [("2*new", 16), ("new // 3", 2), ("new - 9", "new - 9"), ("new//0", "new//0"), ("newest + 1", "newest + 1")],
)
def test_what_a_name_that_is_an_expression_becomes(name: str, becomes: Dim) -> None:
    graph = as_graph(
        net("float[new] a, float[other] b", "float[new] y", "t = ReduceSum<keepdims = 0>(b) y = Add(a, t)")
    )
    graph.require_input("b").shape = ir.Shape([name])
    SetShapes({"a": (8,)})(graph)
    assert graph.inputs[1].shape == (becomes,)


_SIZES = st.one_of(st.integers(1, 3), st.none())


@settings(max_examples=40, deadline=None)
@given(n=_SIZES, t=_SIZES, given_by=st.sampled_from(["a", "bw", "abw"]))
def test_any_choice_of_sizes_is_consistent_and_computes_the_same(n: int | None, t: int | None, given_by: str) -> None:
    first: Dim = n or "N"
    second: Dim = t or "T"
    every: dict[str, tuple[Dim, ...]] = {"a": (first, second), "b": (first, 4), "w": (second, 4)}
    graph = as_graph(PAIR)
    SetShapes({k: every[k] for k in given_by})(graph)
    assert {s.name: s.shape for s in graph.inputs} == every
    assert graph.outputs[0].shape == (first, 4)
    if n or t:
        assert [shape_of(v) for v in graph.model.graph[0].outputs] == [(first, 4)]
    rows, inner = n or 2, t or 5
    assert_same(graph, PAIR, {"a": normal(rows, inner), "b": normal(rows, 4), "w": normal(inner, 4)}, 1e-6)


def test_the_same_shape_changes_nothing() -> None:
    graph = as_graph(PAIR)
    assert SetShapes({"a": ("N", "T")})(graph) == PassReport("set shapes")
    assert SetShapes({})(graph) == PassReport("set shapes")


def test_a_new_name_and_an_unnamed_axis_are_taken() -> None:
    graph = as_graph(net("float[?,3] x, float[?,3] z", "float[?,3] y", "y = Neg(x)"))
    report = SetShapes({"x": ("rows", 3)})(graph)
    assert report.changed == ("x: ?x3 became rowsx3",)
    assert [s.shape for s in graph.inputs] == [("rows", 3), (None, 3)]
    assert graph.outputs[0].shape[1] == 3
    as_model(graph)


def test_what_contradicts_the_graph_is_refused() -> None:
    graph = as_graph(PAIR)
    with pytest.raises(UsageError, match=r"--shapes: the model has no input 'c': its inputs are a, b, w"):
        SetShapes({"c": (1,)})(graph)
    with pytest.raises(UsageError, match=r"--shapes: a has 2 axes \(NxT\), found 3 \(1x2x3\)"):
        SetShapes({"a": (1, 2, 3)})(graph)
    with pytest.raises(UsageError, match=r"--shapes: b has the fixed shape Nx4, found 1x5"):
        SetShapes({"b": (1, 5)})(graph)


def test_two_sizes_for_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match=r"the axis N is one size, found 2 and 3 \(in b\)"):
        SetShapes({"a": (2, "T"), "b": (3, 4)})(as_graph(PAIR))
