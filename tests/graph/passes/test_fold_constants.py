"""FoldConstants: what is constant is computed, what is large or quantized stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textnets import as_graph, as_model, assert_near, assert_same, net, normal, run

from edgebig.graph import Graph
from edgebig.graph.passes import FoldConstants, PassReport, SetShapes, run_passes


def folded(model: object) -> tuple[Graph, PassReport]:
    graph = as_graph(model)  # type: ignore[arg-type]
    (report,) = run_passes(graph, [FoldConstants()])
    return graph, report


def names(graph: Graph) -> list[str]:
    return [n.op_type for n in graph.nodes()]


def test_arithmetic_on_weights_is_done_once() -> None:
    model = net(
        "float[N,4] x",
        "float[N,3] y",
        "t = Transpose(w) h = Mul(t, t) s = Sqrt(h) y = MatMul(x, s)",
        {"w": normal(3, 4)},
    )
    graph, report = folded(model)
    assert names(graph) == ["MatMul"]
    assert set(report.changed) == {"removed 1 Transpose", "removed 1 Mul", "removed 1 Sqrt"}
    assert graph.weight_bytes == 48
    assert_same(graph, model, {"x": normal(2, 4)}, 1e-6)


def test_constant_nodes_become_weights() -> None:
    graph, _ = folded(net("float[2] x", "float[2] y", "k = Constant<value = float[2] {1, 2}>() y = Add(x, k)"))
    assert names(graph) == ["Add"]
    assert graph.weight_bytes == 8


@pytest.mark.parametrize(
    "grow",
    [
        "big = ConstantOfShape<value = float[1] {2}>(shape)",
        "one = Constant<value = float {2.0}>() big = Expand(one, shape)",
        "one = Constant<value = float[1,1] {2.0}>() big = Tile(one, shape)",
        "one = Constant<value = float {2.0}>() e = Expand(one, shape) big = Neg(e)",
        "one = Constant<value = float {2.0}>() e = Expand(one, shape) big = Transpose(e)",
        "o = Constant<value = int64 {1}>() l = Constant<value = int64 {4000000}>() z = Constant<value = int64 {0}>()"
        "r = Range(z, l, o) f = Cast<to = 1>(r) big = Reshape(f, shape)",
        "k = ConstantOfShape<value = bool[1] {1}>(shape) a = Constant<value = float {2.0}>() b = Neg(a)"
        " big = Where(k, a, b)",
        "one = Constant<value = float {2.0}>() e = Expand(one, shape) big = Trilu(e)",
    ],
)
def test_a_large_broadcast_stays_a_computation(grow: str) -> None:
    model = net(
        "float[2000,2000] x", "float[2000,2000] y", f"{grow} y = Add(x, big)", {"shape": np.array([2000, 2000])}
    )
    graph, _ = folded(model)
    assert len(as_model(graph).SerializeToString()) < 100_000
    assert_same(graph, model, {"x": np.ones((2000, 2000), np.float32)})


def test_a_small_mask_is_folded() -> None:
    body = "one = Constant<value = float {2.0}>() e = Expand(one, shape) m = Trilu(e) y = Add(x, m)"
    model = net("float[16,16] x", "float[16,16] y", body, {"shape": np.array([16, 16])})
    graph, _ = folded(model)
    assert names(graph) == ["Add"]
    assert_same(graph, model, {"x": normal(16, 16)})


def test_repacked_lstm_weights_are_folded() -> None:
    """PyTorch's exporters cut, reorder (i, f, g, o to i, o, f, g) and stack the gates' weights inside the graph."""
    hidden, size = 96, 64
    weights = {
        "wi": normal(4 * hidden, size) / 8,
        "wh": normal(4 * hidden, hidden, seed=1) / 8,
        "bi": normal(4 * hidden),
        "bh": normal(4 * hidden),
    }
    weights |= {f"at{i}": np.array([i * hidden]) for i in range(5)}
    weights["zero"] = np.zeros(1, np.int64)
    lines = []
    for w, axis in (("wi", 0), ("wh", 0), ("bi", 0), ("bh", 0)):
        lines += [f"{w}{i} = Slice({w}, at{i}, at{i + 1}, zero)" for i in range(4)]
        lines.append(f"{w}c = Concat<axis = {axis}>({w}0, {w}3, {w}1, {w}2)")
    lines.append(
        "W = Unsqueeze(wic, zero) R = Unsqueeze(whc, zero) bb = Concat<axis = 0>(bic, bhc) B = Unsqueeze(bb, zero)"
    )
    lines.append(f"o, y = LSTM<hidden_size = {hidden}>(x, W, R, B)")
    model = net(f"float[T,N,{size}] x", f"float[1,N,{hidden}] y", " ".join(lines), weights)
    graph, _ = folded(model)
    assert names(graph) == ["LSTM"]
    assert graph.weight_bytes == 4 * (4 * hidden * (size + hidden) + 8 * hidden)
    assert_same(graph, model, {"x": normal(3, 2, size)}, 1e-6)


def test_quantized_weights_stay_quantized() -> None:
    weights = {
        "q": np.arange(-6, 6, dtype=np.int8).reshape(4, 3),
        "s": np.full(3, 0.1, np.float32),
        "z": np.zeros(3, np.int8),
        "f": normal(4, 3),
    }
    weights |= {"s0": np.array(0.1, np.float32), "z0": np.array(3, np.uint8)}
    body = """w = DequantizeLinear<axis = 1>(q, s, z) fq = QuantizeLinear<axis = 1>(f, s, z)
        fd = DequantizeLinear<axis = 1>(fq, s, z)
        xq = QuantizeLinear(x, s0, z0) xd = DequantizeLinear(xq, s0, z0) a = MatMul(xd, w)
        b = MatMul(xd, fd) y = Add(a, b)"""
    model = net("float[N,4] x", "float[N,3] y", body, weights)
    graph, report = folded(model)
    assert report.changed == ()
    assert sorted(names(graph)) == [
        "Add",
        *["DequantizeLinear"] * 3,
        "MatMul",
        "MatMul",
        "QuantizeLinear",
        "QuantizeLinear",
    ]
    assert_same(graph, model, {"x": normal(3, 4)})


def test_shapes_that_were_given_decide_reshapes_and_branches() -> None:
    body = """s = Shape(x) i = Constant<value = int64 {0}>() n = Gather(s, i)
        one = Constant<value = int64 {1}>() c = Equal(n, one)
        y = If(c) <then_branch = t () => (float[M,4] a) { a = Relu(x) },
            else_branch = e () => (float[M,4] b) { b = Neg(x) }>"""
    model = net("float[N,4] x", "float[M,4] y", body)
    graph, report = folded(model)
    assert report.declined == ("1 If remain: their conditions depend on the shape of x (--shapes)",)
    run_passes(graph, [SetShapes({"x": (1, 4)}), FoldConstants()])
    assert names(graph) == ["Relu"]
    assert graph.outputs[0].shape == (1, 4)
    assert_same(graph, model, {"x": normal(1, 4)})


def test_branches_on_inputs_stay_and_compute_the_same() -> None:
    body = """y = If(c) <then_branch = t () => (float[2] a) { k = Neg(w) a = Add(x, k) },
        else_branch = e () => (float[2] b) { b = Mul(x, w) }>"""
    model = net("float[2] x, bool c", "float[2] y", body, {"w": normal(2)})
    graph, report = folded(model)
    assert len(report.declined) == 1
    for flag in (True, False):
        assert_same(graph, model, {"x": normal(2, seed=3), "c": np.array(flag)})


def test_outputs_keep_their_names_even_when_they_are_constant_or_equal() -> None:
    body = "a = Relu(x) b = Relu(x) s = Shape(w) c = Cast<to = 1>(s)"
    model = net("float[2] x", "float[2] a, float[2] b, float[2] c", body, {"w": normal(3, 5)})
    graph, _ = folded(model)
    assert [s.name for s in graph.outputs] == ["a", "b", "c"]
    assert_same(graph, model, {"x": normal(2)})


def test_random_numbers_are_never_folded_nor_merged() -> None:
    body = "a = RandomNormal<shape = [64]>() b = RandomNormal<shape = [64]>() d = Sub(a, b) y = Add(x, d)"
    graph, _ = folded(net("float[64] x", "float[64] y", body))
    assert names(graph).count("RandomNormal") == 2
    assert np.ptp(run(as_model(graph), {"x": np.zeros(64, np.float32)})["y"]) > 0


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_an_empty_weight_and_a_division_by_zero_do_not_stop_it() -> None:
    model = net(
        "float[2] x",
        "float[2] y",
        "q = Div(w, z) e = Concat<axis = 0>(q, n) y = Add(x, e)",
        {"w": normal(2), "z": np.zeros(2, np.float32), "n": np.zeros(0, np.float32)},
    )
    graph, _ = folded(model)
    found, right = run(as_model(graph), {"x": normal(2)}), run(model, {"x": normal(2)})
    np.testing.assert_array_equal(found["y"], right["y"])


_UNARY = ["Relu", "Neg", "Abs", "Identity", "Tanh", "Transpose"]
_BINARY = ["Add", "Mul", "Sub", "MatMul", "Max"]


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(_UNARY + _BINARY), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=10
    )
)
def test_random_graphs_of_weights_and_inputs_compute_the_same(steps: list[tuple[str, int, int]]) -> None:
    """Every node reads any values before it, so that parts are constant, equal or unused."""
    values = ["x", "w", "k"]
    lines = []
    for i, (op, a, b) in enumerate(steps):
        reads = [values[a % len(values)]] + ([values[b % len(values)]] if op in _BINARY else [])
        lines.append(f"h{i} = {op}({', '.join(reads)})")
        values.append(f"h{i}")
    body = " ".join(lines) + f" t = Tanh({values[-1]}) y = Add(t, x) z = Identity({values[-1]})"
    model = net(
        "float[3,3] x", "float[3,3] y, float[3,3] z", body, {"w": normal(3, 3, seed=1), "k": normal(3, 3, seed=2)}
    )
    graph, _ = folded(model)
    feeds = {"x": normal(3, 3)}
    expected = run(model, feeds)
    if all(np.isfinite(v).all() for v in expected.values()):
        assert_near(run(as_model(graph), feeds), expected, 1e-4)
