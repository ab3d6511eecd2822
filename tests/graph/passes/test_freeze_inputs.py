"""FreezeInputs: an input becomes a constant, and the branches on it go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textnets import Array, as_graph, as_model, assert_near, net, normal, run

from edgebig.errors import UsageError
from edgebig.graph import Graph
from edgebig.graph.passes import FoldConstants, FreezeInputs, PassReport, run_passes

RATE = """
    k = Constant<value = int64 {16000}>() c = Equal(sr, k)
    y = If(c) <
        then_branch = fast () => (float[N] a) { p = Relu(x) a = Mul(p, p) },
        else_branch = slow () => (float[N] b) {
            e = Constant<value = int64 {8000}>() d = Equal(sr, e)
            b = If(d) <
                then_branch = low () => (float[N] f) { f = Neg(x) },
                else_branch = other () => (float[N] g) { q = Cast<to = 1>(sr) g = Add(x, q) }
            >
        }
    >
"""


def frozen(model: object, **values: int | float | bool) -> Graph:
    graph = as_graph(model)  # type: ignore[arg-type]
    run_passes(graph, [FreezeInputs(values), FoldConstants()])
    return graph


@settings(max_examples=12, deadline=None)
@given(rate=st.sampled_from([16000, 8000, 44100, 0, -3]), feed=st.integers(0, 9))
def test_nested_branches_on_a_frozen_input_go_and_the_numbers_stay(rate: int, feed: int) -> None:
    model = net("float[N] x, int64 sr", "float[N] y", RATE)
    x = normal(5, seed=feed)
    graph = frozen(model, sr=rate)
    assert [s.name for s in graph.inputs] == ["x"]
    assert all(n.op_type != "If" for n in graph.nodes())
    assert_near(run(as_model(graph), {"x": x}), run(model, {"x": x, "sr": np.array(rate)}), 1e-7)


@settings(max_examples=25, deadline=None)
@given(
    flags=st.tuples(st.booleans(), st.booleans()),
    freeze=st.sets(st.sampled_from(["c", "d"])),
    ops=st.lists(st.sampled_from(["Relu", "Neg", "Abs", "Exp", "Identity"]), min_size=4, max_size=4),
)
def test_any_nest_of_branches_equals_the_original(flags: tuple[bool, bool], freeze: set[str], ops: list[str]) -> None:
    body = f"""h = {ops[0]}(x)
        y = If(c) <
            then_branch = t () => (float[3] a) {{ a = {ops[1]}(h) }},
            else_branch = e () => (float[3] b) {{
                m = {ops[2]}(x)
                b = If(d) <
                    then_branch = u () => (float[3] f) {{ f = {ops[3]}(m) }},
                    else_branch = v () => (float[3] g) {{ g = Sub(h, m) }}
                >
            }}
        >"""
    model = net("float[3] x, bool c, bool d", "float[3] y", body)
    values = dict(zip("cd", flags, strict=True))
    graph = frozen(model, **{k: values[k] for k in freeze})
    feeds: dict[str, Array] = {k: np.array(v) for k, v in values.items()}
    feeds["x"] = normal(3)
    given_feeds = {k: v for k, v in feeds.items() if k not in freeze}
    assert_near(run(as_model(graph), given_feeds), run(model, feeds), 1e-7)
    assert [s.name for s in graph.inputs] == [n for n in ("x", "c", "d") if n not in freeze]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("int64", 16000, np.array(16000)),
        ("int32[2,2]", -7, np.full((2, 2), -7, np.int32)),
        ("bool[1]", True, np.array([True])),
        ("float", 0.25, np.array(0.25, np.float32)),
        ("float[2]", 3, np.array([3, 3], np.float32)),
        ("float16[1]", -0.5, np.array([-0.5], np.float16)),
        ("uint8", 255, np.array(255, np.uint8)),
        ("float", 0.1, np.array(0.1, np.float32)),
    ],
)
def test_every_element_gets_the_value_in_the_inputs_dtype(
    kind: str, value: int | float | bool, expected: Array
) -> None:
    graph = as_graph(net(f"float[2] x, {kind} k", f"float[2] y, {kind} z", "y = Relu(x) z = Identity(k)"))
    report = FreezeInputs({"k": value})(graph)
    assert report == PassReport("freeze inputs", (f"k = {value}",))
    found = run(as_model(graph), {"x": normal(2)})["z"]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("int64", 0.5), ("uint8", -1), ("int8", 300), ("bool", 2), ("float16", 1e6), ("float", float("nan"))],
)
def test_a_value_that_the_dtype_cannot_hold_is_refused(kind: str, value: int | float) -> None:
    graph = as_graph(net(f"float[2] x, {kind} k", f"float[2] y, {kind} z", "y = Relu(x) z = Identity(k)"))
    with pytest.raises(UsageError, match=r"--freeze k=.*: the value does not fit the input's dtype"):
        FreezeInputs({"k": value})(graph)
    assert [s.name for s in graph.inputs] == ["x", "k"]


def test_unknown_inputs_and_dynamic_shapes_are_refused_with_what_to_do() -> None:
    graph = as_graph(net("float[N] x, int64 k", "float[N] y", "y = Relu(x)"))
    with pytest.raises(UsageError, match=r"--freeze gone=1: the model has no input 'gone': its inputs are x, k"):
        FreezeInputs({"gone": 1})(graph)
    with pytest.raises(UsageError, match=r"--freeze x=1: the input has the dynamic shape .*give --shapes too"):
        FreezeInputs({"x": 1})(graph)


def test_a_loop_over_a_frozen_count_still_computes_the_same() -> None:
    body = """c = Constant<value = bool {1}>() s = Identity(x)
        y = Loop(n, c, s) <body = step (int64 i, bool go, float[2] v) => (bool more, float[2] w)
            { more = Identity(go) w = Add(v, v) }>"""
    model = net("float[2] x, int64 n", "float[2] y", body)
    assert_near(run(as_model(frozen(model, n=3)), {"x": normal(2)}), {"y": 8 * normal(2)}, 1e-6)
