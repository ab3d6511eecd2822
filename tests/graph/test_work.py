"""Work of nodes: counted by hand, and the published figure of a real network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import conv_net, net, node, normal

from edgebig.graph import Graph
from edgebig.graph.work import Traffic, macs, observed_shapes, traffic


def test_shapes_of_a_run() -> None:
    shapes = observed_shapes(conv_net(), {"x": np.zeros((5, 3, 8, 8), np.float32)})
    assert shapes["x"] == (5, 3, 8, 8) and shapes["w1"] == (8, 3, 3, 3)
    assert [shapes[n] for n in ("conv1", "pool", "conv2", "flat", "y")] == [
        (5, 8, 8, 8),
        (5, 8, 4, 4),
        (5, 8, 4, 4),
        (5, 8),
        (5, 4),
    ]


def test_convolutions_and_gemm() -> None:
    graph = conv_net()
    found = macs(graph, observed_shapes(graph, {"x": np.zeros((2, 3, 8, 8), np.float32)}))
    assert found == {"conv1": 2 * 8 * 64 * 27, "conv2": 2 * 8 * 16 * 72, "y": 2 * 4 * 8}


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 7), st.booleans())
def test_products_count_one_for_each_multiplication(b: int, m: int, k: int, n: int, transposed: bool) -> None:
    a_shape = [k, m] if transposed else [m, k]
    graph = net(
        [
            node("MatMul", "x w", "p"),
            node("Gemm", "a w", "g", transA=int(transposed)),
            node("Einsum", "x w", "e", equation="bmk,kn->bmn"),
        ],
        {"x": [b, m, k], "a": a_shape},
        ["p", "g", "e"],
        {"w": normal(k, n)},
    )
    assert macs(graph, {}) == {"p": b * m * n * k, "g": m * n * k, "e": b * m * n * k}


def test_transposed_and_grouped_convolutions() -> None:
    graph = net(
        [node("ConvTranspose", "x w", "t", strides=[2, 2]), node("Conv", "x d", "depthwise", group=4)],
        {"x": [1, 4, 5, 5]},
        ["t", "depthwise"],
        {"w": normal(4, 6, 2, 2), "d": normal(4, 1, 3, 3)},
    )
    # each input element of the transposed one meets 6 channels of 2 x 2
    assert macs(graph, {}) == {"t": 100 * 24, "depthwise": 4 * 9 * 9}


def test_recurrence() -> None:
    graph = net(
        [node("LSTM", "x w r", "y", hidden_size=3), node("GRU", "x wg rg", "z", hidden_size=3)],
        {"x": [7, 2, 5]},
        ["y", "z"],
        {"w": normal(1, 12, 5), "r": normal(1, 12, 3), "wg": normal(1, 9, 5), "rg": normal(1, 9, 3)},
    )
    assert macs(graph, {}) == {"y": 7 * 2 * 4 * 3 * (5 + 3), "z": 7 * 2 * 3 * 3 * (5 + 3)}


@pytest.mark.parametrize("packed", [False, True])
def test_attention_with_past_keys(packed: bool) -> None:
    batch, heads, new, past, size = 2, 3, 4, 6, 5
    shape = [batch, new, heads * size] if packed else [batch, heads, new, size]
    keys = [batch, heads, past, size]
    heads_of = {"q_num_heads": heads, "kv_num_heads": heads} if packed else {}
    graph = net(
        [node("Attention", "q k v - pk pv", "y ok ov", **heads_of)],
        {"q": shape, "k": shape, "v": shape, "pk": keys, "pv": keys},
        ["y"],
        opset=23,
    )
    found = macs(graph, {"q": tuple(shape), "k": tuple(shape), "pk": tuple(keys), "y": tuple(shape)})
    assert found == {"y": 2 * batch * heads * new * (new + past) * size}


def test_bytes_that_nodes_move() -> None:
    graph = net(
        [node("Gather", "table ids", "rows"), node("Mul", "rows rows", "y")],
        {"ids": ["n"]},
        ["y"],
        {"table": normal(10, 4)},
        types={"ids": "int64"},
    )
    moved = traffic(graph, observed_shapes(graph, {"ids": np.arange(3)}))
    assert moved == {"rows": Traffic(160 + 24, 48), "y": Traffic(48, 48)}


def test_a_dynamic_shape_that_nobody_gave_counts_nothing() -> None:
    graph = net([node("MatMul", "x w", "y")], {"x": ["n", 4]}, ["y"], {"w": normal(4, 3)})
    assert macs(graph, {}) == {} and traffic(graph, {})["y"] == Traffic(48, 0)


def test_squeezenet_has_the_published_figure(shared_data: Path) -> None:
    graph = Graph.load(shared_data / "squeezenet" / "squeezenet1.1_fp32.onnx")
    for index, plain in enumerate(graph.model.graph):
        plain.name = plain.name or f"node_{index}"
    found = macs(graph, observed_shapes(graph, {"data_0": np.zeros((1, 3, 224, 224), np.float32)}))
    # SqueezeNet 1.1: 0.349 GMACs, as torchvision and fvcore count it
    assert sum(found.values()) == pytest.approx(0.349e9, rel=0.003)
