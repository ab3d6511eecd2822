"""FoldBatchNorm: the convolution before it takes it in, or the report says why not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textnets import Array, as_graph, assert_same, net, normal

from edgebig.graph.passes import FoldBatchNorm, FoldConstants, run_passes


def statistics(channels: int, seed: int = 0) -> dict[str, Array]:
    """Scale, bias, mean and variance as a trained network has them: scales of both signs, one dead channel."""
    rng = np.random.default_rng(seed)
    scale = rng.normal(size=channels)
    scale[0] = 0
    values = {
        "g": scale,
        "b": rng.normal(size=channels),
        "m": rng.normal(size=channels),
        "v": rng.uniform(0.01, 4, channels),
    }
    return {k: v.astype(np.float32) for k, v in values.items()}


BN = "BatchNormalization<epsilon = 0.001>(c, g, b, m, v)"


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    each=st.integers(1, 3),
    kernel=st.sampled_from([1, 3]),
    bias=st.booleans(),
    transposed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_convolution_takes_it_in(
    groups: int, each: int, kernel: int, bias: bool, transposed: bool, seed: int
) -> None:
    into, out = groups * 2, groups * each
    shape = (into, each, kernel, kernel) if transposed else (out, 2, kernel, kernel)
    weights = {"w": normal(*shape, seed=seed), **statistics(out, seed)}
    if bias:
        weights["k"] = normal(out, seed=seed + 1)
    op = "ConvTranspose" if transposed else "Conv"
    body = f"c = {op}<group = {groups}, kernel_shape = [{kernel}, {kernel}]>(x, w{', k' if bias else ''}) y = {BN}"
    model = net(f"float[N,{into},5,5] x", f"float[N,{out},H,W] y", body, weights)
    graph = as_graph(model)
    (report,) = run_passes(graph, [FoldBatchNorm()])
    if transposed and groups > 1 and report.declined:
        assert [n.op_type for n in graph.nodes()] == ["ConvTranspose", "BatchNormalization"]
    else:
        assert report.changed == ("removed 1 BatchNormalization",)
        assert report.declined == ()
        assert [n.op_type for n in graph.nodes()] == [op]
    assert_same(graph, model, {"x": normal(2, into, 5, 5, seed=seed)}, 2e-5)


@pytest.mark.parametrize("attributes", ["", "<transB = 1>", "<alpha = 0.5, beta = 2.0>", "<alpha = 0.5, transB = 1>"])
@pytest.mark.parametrize("bias", [None, (5,), (1, 5), (1,), ()])
def test_a_gemm_takes_it_in(attributes: str, bias: tuple[int, ...] | None) -> None:
    weights = {"w": normal(*((5, 3) if "transB" in attributes else (3, 5))), **statistics(5)}
    if bias is not None:
        weights["k"] = normal(*bias, seed=7)
    body = f"c = Gemm{attributes}(x, w{', k' if bias is not None else ''}) y = {BN}"
    model = net("float[N,3] x", "float[N,5] y", body, weights)
    graph = as_graph(model)
    run_passes(graph, [FoldBatchNorm()])
    assert_same(graph, model, {"x": normal(4, 3)}, 2e-5)


@settings(max_examples=15, deadline=None)
@given(ops=st.lists(st.sampled_from(["conv", "bn", "relu", "skip"]), min_size=2, max_size=6), seed=st.integers(0, 9))
def test_random_networks_compute_the_same(ops: list[str], seed: int) -> None:
    """Convolutions, BatchNorms, activations and skips in any order, weights shared between layers of a kind."""
    weights = {"w": normal(4, 4, 3, 3, seed=seed) / 6, **statistics(4, seed)}
    lines, last, before = [], "x", "x"
    for i, op in enumerate(ops):
        now = f"h{i}"
        lines.append(
            {
                "conv": f"{now} = Conv<pads = [1, 1, 1, 1]>({last}, w)",
                "bn": f"{now} = BatchNormalization({last}, g, b, m, v)",
                "relu": f"{now} = Relu({last})",
                "skip": f"{now} = Add({last}, {before})",
            }[op]
        )
        before, last = last, now
    model = net("float[1,4,6,6] x", "float[1,4,6,6] y", " ".join(lines) + f" y = Neg({last})", weights)
    graph = as_graph(model)
    run_passes(graph, [FoldBatchNorm(), FoldConstants()])
    assert_same(graph, model, {"x": normal(1, 4, 6, 6, seed=seed)}, 1e-4)


@pytest.mark.parametrize(
    ("inputs", "body", "why"),
    [
        ("float[1,4,3,3] c", f"y = {BN}", "it reads an input of the graph"),
        ("float[1,4,3,3] x", f"c = Relu(x) y = {BN}", "it follows Relu, not a convolution"),
        ("float[1,4,3,3] x", f"c = Conv(x, w) h = {BN} y = Add(h, c)", "others read the output of Conv too"),
        (
            "float[1,4,3,3] x, float[4,4,1,1] k",
            f"c = Conv(x, k) y = {BN}",
            "its statistics or the weights are not constant",
        ),
        (
            "float[1,4,3,3] x, float[4] s",
            "c = Conv(x, w) y = BatchNormalization(c, s, b, m, v)",
            "its statistics or the weights are not constant",
        ),
    ],
)
def test_what_it_leaves_it_says_why(inputs: str, body: str, why: str) -> None:
    weights = {"w": normal(4, 4, 1, 1), **statistics(4)}
    graph = as_graph(net(inputs, "float[1,4,3,3] y", body, weights))
    graph.model.graph[-1 if body.endswith("v)") else 1].name = "norm"
    report = FoldBatchNorm()(graph)
    assert report.changed == ()
    assert report.declined == (f"norm stays: {why}",)


def test_a_convolution_whose_output_the_caller_reads_too_stays() -> None:
    model = net(
        "float[1,4,3,3] x",
        "float[1,4,3,3] c, float[1,4,3,3] y",
        f"c = Conv(x, w) y = {BN}",
        {"w": normal(4, 4, 1, 1), **statistics(4)},
    )
    graph = as_graph(model)
    (report,) = run_passes(graph, [FoldBatchNorm()])
    assert_same(graph, model, {"x": normal(1, 4, 3, 3)})
    assert report.declined == ("y stays: others read the output of Conv too",)


def test_weights_that_two_convolutions_share_are_folded_apart() -> None:
    body = "a = Conv(x, w) p = BatchNormalization(a, g, b, m, v) c = Conv(x, w) y = Add(p, c)"
    model = net("float[1,4,3,3] x", "float[1,4,3,3] y", body, {"w": normal(4, 4, 1, 1), **statistics(4)})
    graph = as_graph(model)
    run_passes(graph, [FoldBatchNorm()])
    assert_same(graph, model, {"x": normal(1, 4, 3, 3)})


def test_weights_from_constant_nodes_are_folded() -> None:
    values = {"w": normal(2, 1, 1, 1), **statistics(2)}
    lines = [
        f"{k} = Constant<value = float[{','.join(map(str, v.shape))}] {{{', '.join(map(str, v.ravel()))}}}>()"
        for k, v in values.items()
    ]
    model = net("float[1,1,3,3] x", "float[1,2,3,3] y", " ".join(lines) + f" c = Conv(x, w) y = {BN}")
    graph = as_graph(model)
    (report,) = run_passes(graph, [FoldBatchNorm()])
    assert report.declined == ()
    assert_same(graph, model, {"x": normal(1, 1, 3, 3)})
