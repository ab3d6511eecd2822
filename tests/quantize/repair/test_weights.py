"""All of a plan's weights rounded, and what insertion makes of them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from nets import Array, conv_net, net, node, normal, run, samples_for

from edgebig.errors import GraphError
from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.quantize import Plan, insert_qdq, rules_weights
from edgebig.quantize.assignment import Assignment
from edgebig.quantize.formats import INT4, INT8
from edgebig.quantize.plan import WeightChoice
from edgebig.quantize.repair.weights import round_weights
from edgebig.quantize.scales import nearest


def mlp() -> Graph:
    """x 8x96 with channels that depend on each other -> h (MatMul) -> relu -> y (Gemm, transB)."""
    return net(
        [
            node("MatMul", "x mix", "mixed"),
            node("MatMul", "mixed w1", "h"),
            node("Relu", "h", "r"),
            node("Gemm", "r w2", "y", transB=1),
        ],
        {"x": [8, 6]},
        ["y"],
        {"mix": normal(6, 96, seed=5), "w1": normal(96, 128, seed=1), "w2": normal(32, 128, seed=2)},
        opset=21,
    )


def error_of(graph: Graph, plan: Plan, rounded: dict[str, Array] | None, samples: list[dict[str, Array]]) -> float:
    quantized = graph.clone()
    insert_qdq(quantized, plan, rounded)
    return float(sum(np.square(run(quantized, s)["y"] - run(graph, s)["y"]).sum() for s in samples))


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_int4_by_block_of_an_mlp(method) -> None:
    graph = mlp()
    plan = rules_weights.make(graph, Assignment("int4", {"mixed": "float"}), 32)
    assert [(w.node, w.axis, w.block) for w in plan.weights] == [("h", 0, 32), ("y", 1, 32)]
    samples, fresh = samples_for(graph, 32), samples_for(graph, 8, seed=7)
    rounded = round_weights(graph, plan, samples, method=method)
    assert {n: (v.dtype, v.shape) for n, v in rounded.items()} == {
        "h": (ml_dtypes.int4, (96, 128)),
        "y": (ml_dtypes.int4, (32, 128)),
    }
    assert error_of(graph, plan, rounded, fresh) < 0.5 * error_of(graph, plan, None, fresh)


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_int8_of_convolutions(method) -> None:
    graph = conv_net()
    plan = Plan(weights=[WeightChoice(n, 1, INT8, 0) for n in ("conv1", "conv2", "y")])
    samples, fresh = samples_for(graph, 24), samples_for(graph, 8, seed=7)
    rounded = round_weights(graph, plan, samples, method=method)
    assert rounded["conv1"].shape == (8, 3, 3, 3) and rounded["conv1"].dtype == np.int8
    weight = constant(graph.model.graph.initializers["w2"]).numpy()
    plain = nearest(weight, plan.weights[1])
    # most values stay next to what they were
    assert np.abs(rounded["conv2"].astype(int) - plain.astype(int)).max() <= 3
    assert (rounded["conv2"] != plain).mean() > 0.05
    assert error_of(graph, plan, rounded, fresh) < 0.9 * error_of(graph, plan, None, fresh)


def test_the_graph_holds_the_rounded_values_and_the_plans_scales() -> None:
    graph = mlp()
    plan = Plan(weights=[WeightChoice("h", 1, INT4, 0, 32, "mse")])
    values = np.full((96, 128), 3).astype(ml_dtypes.int4)
    weight = constant(graph.model.graph.initializers["w1"]).numpy().copy()
    insert_qdq(graph, plan, {"h": values})
    (dequantize,) = (n for n in graph.model.graph if n.op_type == "DequantizeLinear")
    found, scale, _ = (constant(v).numpy() for v in dequantize.inputs)
    np.testing.assert_array_equal(found.astype(int), 3)
    largest = np.abs(weight.reshape(3, 32, 128)).max(axis=1)
    ratio = scale / (largest / 7)
    assert scale.shape == (3, 128) and ratio.max() <= 1 + 1e-6 and ratio.min() >= 0.5 and ratio.mean() < 0.97


def test_values_that_do_not_fit_are_refused() -> None:
    plan = Plan(weights=[WeightChoice("h", 1, INT4, 0, 32)])
    for wrong in (np.zeros((96, 128), np.int8), np.zeros((128, 96), ml_dtypes.int4)):
        with pytest.raises(GraphError, match="the rounded weight of h is .* the plan asks for int4 \\(96, 128\\)"):
            insert_qdq(mlp(), plan, {"h": wrong})


def test_what_the_method_is_not_for_is_left_to_insertion() -> None:
    graph = net(
        [node("ConvTranspose", "x w", "up"), node("Conv", "up w2", "y")],
        {"x": [1, 4, 5, 5]},
        ["y"],
        {"w": normal(4, 4, 2, 2), "w2": normal(4, 4, 1, 1)},
    )
    plan = Plan(weights=[WeightChoice("up", 1, INT8, 1), WeightChoice("y", 1, INT8, 0)])
    samples = samples_for(graph, 4)
    assert set(round_weights(graph, plan, samples, method="gptq")) == {"y"}
    assert round_weights(graph, plan, [], method="nearest") == {}
    insert_qdq(graph, plan, round_weights(graph, plan, samples, method="gptq"))
    assert run(graph, samples[0])["y"].shape == (1, 4, 6, 6)
