"""RemoveNoOps: nodes that compute nothing go, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textnets import as_graph, as_model, assert_same, net, normal

from edgebig.graph import Graph
from edgebig.graph.passes import FoldConstants, Pass, RemoveNoOps, run_passes
from edgebig.graph.shapes import infer_shapes

WEIGHTS = {
    "zero": np.zeros((), np.float32),
    "one": np.ones((), np.float32),
    "zeros": np.zeros((2, 3, 4), np.float32),
    "two": np.full(1, 2, np.float32),
    "half": np.array(0.5, np.float32),
}


def cleaned(model: object) -> Graph:
    graph = as_graph(model)  # type: ignore[arg-type]
    infer_shapes(graph)
    run_passes(graph, [RemoveNoOps()])
    return graph


@pytest.mark.parametrize(
    "noop",
    [
        "h = Identity(x)",
        "h = Add(x, zero)",
        "h = Add(zero, x)",
        "h = Sub(x, zero)",
        "h = Mul(x, one)",
        "h = Div(x, one)",
        "h = Cast<to = 1>(x)",
        "h = Transpose<perm = [0, 1, 2]>(x)",
        "a = Transpose<perm = [2, 0, 1]>(x) h = Transpose<perm = [1, 2, 0]>(a)",
        "a = Identity(x) b = Identity(a) h = Identity(b)",
    ],
)
def test_what_computes_nothing_goes(noop: str) -> None:
    model = net("float[2,3,4] x", "float[2,3,4] y", f"{noop} y = Relu(h)", WEIGHTS)
    graph = cleaned(model)
    assert [n.op_type for n in graph.nodes()] == ["Relu"]
    assert_same(graph, model, {"x": normal(2, 3, 4)}, 0)


@pytest.mark.parametrize(
    "something",
    [
        "h = Add(x, two)",
        "h = Mul(x, two)",
        "h = Sub(zero, x)",
        "h = Div(one, x)",
        "a = Cast<to = 6>(x) h = Cast<to = 1>(a)",
        "a = Cast<to = 10>(x) h = Cast<to = 1>(a)",
        "h = Clip(x, zero0)",
        "h = Transpose<perm = [0, 2, 1]>(x)",
        "h = DequantizeLinear(q, s) q = QuantizeLinear(x, s)",
    ],
)
def test_what_computes_something_stays(something: str) -> None:
    if something.startswith("h = Deq"):
        first, second = something.split(") q")
        something = f"q{second} {first})"
    weights = {**WEIGHTS, "zero0": np.zeros((), np.float32), "s": np.array(0.5, np.float32)}
    model = net("float[2,3,4] x", "float[A,B,C] y", f"{something} y = Neg(h)", weights)
    graph = cleaned(model)
    assert len(graph.nodes()) == len(model.graph.node)
    assert_same(graph, model, {"x": normal(2, 3, 4)}, 0)


@pytest.mark.parametrize(
    "noop", ["h = Dropout(x)", "h = Dropout<seed = 3>(x, half)", "h, mask = Dropout(x, half, off)"]
)
def test_a_dropout_goes_with_the_folding_before(noop: str) -> None:
    model = net("float[2,3,4] x", "float[2,3,4] y", f"{noop} y = Relu(h)", {**WEIGHTS, "off": np.array(False)})
    graph = as_graph(model)
    run_passes(graph, [FoldConstants(), RemoveNoOps()])
    assert [n.op_type for n in graph.nodes()] == ["Relu"]
    assert_same(graph, model, {"x": normal(2, 3, 4)}, 0)


def test_a_zero_that_broadcasts_is_not_nothing() -> None:
    model = net("float[4] x", "float[2,3,4] y", "h = Add(x, zeros) y = Relu(h)", WEIGHTS)
    assert_same(cleaned(model), model, {"x": normal(4)}, 0)


PASSING = """y = If(c) <
    then_branch = t () => (float[2] a) { a = Identity(x) },
    else_branch = e () => (float[2] b) { h = Identity(x) b = Neg(h) }
>"""


PASSES = pytest.mark.parametrize(
    "body",
    [
        PASSING,
        PASSING.replace("Identity(x) }", "Identity(w) }"),
        "p = Relu(x) " + PASSING.replace("Identity(x) }", "Identity(p) }"),
        "p = Relu(x) " + PASSING.replace("a = Identity(x) }", "i = Identity(p) a = Add(i, zero) }"),
        """y = If(c) <
            then_branch = t () => (float[2] a) {
                a = If(d) <then_branch = u () => (float[2] f) { f = Identity(x) },
                    else_branch = v () => (float[2] g) { g = Dropout(x) }>
            },
            else_branch = e () => (float[2] b) { b = Identity(w) }
        >""",
    ],
    ids=["an input", "a weight", "a value", "a sum with 0", "nested"],
)


@PASSES
def test_a_branch_that_passes_an_outer_value_computes_what_it_returns(body: str) -> None:
    """ONNX wants each output of a branch to be written inside it: removing its only node would break that."""
    inputs = "float[2] x, bool c, bool d"
    model = net(inputs, "float[2] y", body, {"w": normal(2, seed=5), "zero": np.zeros(1, np.float32)})
    graph = cleaned(model)
    for c in (True, False):
        for d in (True, False):
            assert_same(graph, model, {"x": normal(2), "c": np.array(c), "d": np.array(d)}, 0)
    for node in graph.nodes():
        for attribute in node.attributes.values():
            if node.op_type == "If":
                branch = attribute.as_graph()
                inside = {id(v) for n in branch for v in n.outputs}
                assert all(id(v) in inside for v in branch.outputs)
                assert [v.type for v in branch.outputs] != [None]


@PASSES
def test_it_may_run_again_on_its_own_result(body: str) -> None:
    weights = {"w": normal(2, seed=5), "zero": np.zeros(1, np.float32)}
    model = net("float[2] x, bool c, bool d", "float[2] y", body, weights)
    graph = as_graph(model)
    run_passes(graph, [RemoveNoOps(), FoldConstants(), RemoveNoOps(), FoldConstants(), RemoveNoOps()])
    for c in (True, False):
        for d in (True, False):
            assert_same(graph, model, {"x": normal(2), "c": np.array(c), "d": np.array(d)}, 0)


def test_a_loop_that_passes_its_state_on_stays_valid() -> None:
    body = """k = Constant<value = bool {1}>() i = Identity(x)
        y, all = Loop(n, k, i) <body = step (int64 t, bool go, float[2] v) => (bool more, float[2] w, float[2] o)
            { more = Identity(go) w = Identity(v) o = Identity(x) }>"""
    model = net("float[2] x, int64 n", "float[2] y, float[M,2] all", body)
    assert_same(cleaned(model), model, {"x": normal(2), "n": np.array(3)}, 0)


def test_an_output_that_is_an_input_keeps_its_name() -> None:
    model = net(
        "float[2] x", "float[2] y, float[2] z", "y = Identity(x) z = Add(x, zero)", {"zero": np.zeros(1, np.float32)}
    )
    graph = cleaned(model)
    assert [s.name for s in graph.outputs] == ["y", "z"]
    assert_same(graph, model, {"x": normal(2)}, 0)


@pytest.mark.parametrize("before", [[], [FoldConstants()]])
def test_two_outputs_that_are_one_value_keep_both_names(before: list[Pass]) -> None:
    model = net("float[2] x", "float[2] y, float[2] z, float[2] w", "y = Relu(x) z = Identity(y) w = Identity(z)")
    graph = as_graph(model)
    run_passes(graph, [*before, RemoveNoOps()])
    assert [s.name for s in graph.outputs] == ["y", "z", "w"]
    assert_same(graph, model, {"x": normal(2)}, 0)


def test_a_recurrent_body_that_gives_its_state_twice_keeps_both() -> None:
    body = """f, o = Scan<num_scan_inputs = 1, body = b (float[2] si, float[2] xi) => (float[2] so, float[2] oi)
        { so = Add(si, xi) oi = Identity(so) }>(s, x)"""
    model = net("float[2] s, float[3,2] x", "float[2] f, float[3,2] o", body)
    assert_same(cleaned(model), model, {"s": normal(2), "x": normal(3, 2, seed=1)}, 0)


def test_an_output_takes_over_the_name_from_what_computes_it() -> None:
    model = net("float[N,2] x", "float[rows,2] y, float[N,2] z", "h = Relu(x) y = Identity(h) z = Neg(h)")
    graph = cleaned(model)
    assert [n.op_type for n in graph.nodes()] == ["Relu", "Neg"]
    assert_same(graph, model, {"x": normal(3, 2)}, 0)


def test_what_nothing_uses_goes() -> None:
    graph = cleaned(net("float[2] x", "float[2] y", "h = Relu(x) g = Add(h, w) y = Neg(x)", {"w": normal(2)}))
    assert [n.op_type for n in graph.nodes()] == ["Neg"]
    assert graph.weight_bytes == 0


_STEPS = [
    "Add({0}, zero)",
    "Mul({0}, one)",
    "Identity({0})",
    "Dropout({0})",
    "Relu({0})",
    "Cast<to = 1>({0})",
    "Transpose<perm = [1, 0, 2]>({0})",
]
_STEPS += [
    "Reshape({0}, flat)",
    "Reshape({0}, back)",
    "Clip({0}, low, high)",
    "Add({0}, {0})",
    "Slice({0}, start, end, axis)",
]


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.sampled_from(_STEPS), min_size=1, max_size=7))
def test_random_chains_compute_the_same(steps: list[str]) -> None:
    weights = {
        **WEIGHTS,
        "flat": np.array([0, -1, 1]),
        "back": np.array([-1, 3, 2]),
        "low": np.array(-0.5, np.float32),
        "high": np.array(0.5, np.float32),
    }
    weights |= {"start": np.array([0]), "end": np.array([2**31]), "axis": np.array([1])}
    lines = [f"h{i + 1} = {step.format(f'h{i}')}" for i, step in enumerate(steps)]
    body = f"h0 = Identity(x) {' '.join(lines)} y = Neg(h{len(steps)})"
    model = net("float[3,3,4] x", "float[A,B,C] y", body, weights)
    graph = cleaned(model)
    as_model(graph)
    assert_same(graph, model, {"x": normal(3, 3, 4)}, 0)
