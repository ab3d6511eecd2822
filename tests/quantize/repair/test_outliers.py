"""Outlier channels: the same outputs in float, less loss in INT8, thin products that no plan quantizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from engines import rtx_engine
from nets import Array, Sample, net, node, normal, op_types, ranges_of, run, samples_for

from edgebig.graph import Graph
from edgebig.quantize import PlanFile, insert_qdq, lower_floats, make_plan, planned_layers
from edgebig.quantize.formats import INT8
from edgebig.quantize.repair.outliers import split_outliers
from edgebig.quantize.repair.smooth import smooth
from edgebig.quantize.repair.weights import round_weights
from edgebig.recipe import Recipe
from edgebig.target import Target

CHANNELS = 192
LARGE = (3, 77, 150, 191)
GAIN = np.ones(CHANNELS, np.float32)
GAIN[list(LARGE)] = (60, 200, 90, 120)


def normed(gain: Array = GAIN, channels: int = CHANNELS, **gemm: int) -> Graph:
    """x -> LayerNorm with a few huge channels -> MatMul and its bias, and Gemm; added. The norm is read again."""
    gain = gain[:channels]
    return net(
        [
            node("LayerNormalization", "x gain offset", "n"),
            node("MatMul", "n wa", "a"),
            node("Add", "ba a", "abias"),
            node("Gemm", "n wb bb", "b", **gemm),
            node("Add", "abias b", "s"),
            node("ReduceMean", "n last", "m", keepdims=1),
            node("Add", "s m", "y"),
        ],
        {"x": ["batch", channels]},
        ["y", "abias"],
        {
            "gain": gain,
            "offset": normal(channels, seed=9, scale=0.1),
            # the rows of large channels are no smaller, so that moving the range into the weight does not do
            "wa": normal(channels, 48, seed=1, scale=0.2),
            "ba": normal(48, seed=5),
            "wb": normal(*((48, channels) if gemm.get("transB") else (channels, 48)), seed=2, scale=0.2),
            "bb": normal(48, seed=3),
            "last": np.array([-1]),
        },
    )


def outputs(graph: Graph, samples: list[Sample], name: str = "y") -> Array:
    return np.concatenate([run(graph, s)[name] for s in samples])


def quantized(graph: Graph, samples: list[Sample], target: str = "l4") -> Graph:
    made = graph.clone()
    insert_qdq(made, make_plan(made, ranges_of(made, samples), Target.load(target), Recipe(), "int8"))
    return made


def loss(graph: Graph, samples: list[Sample], unseen: list[Sample], exact: Array) -> float:
    noise = np.square(outputs(quantized(graph, samples), unseen) - exact).sum(axis=1)
    return float((noise / np.square(exact - exact.mean(axis=0)).sum(axis=1)).mean())


@pytest.mark.parametrize("gemm", [{}, {"transB": 1}], ids=["as it is", "transposed"])
def test_outputs_stay_and_the_loss_shrinks(gemm: dict[str, int]) -> None:
    graph = normed(**gemm)
    samples, unseen = samples_for(graph, 48, batch=8), samples_for(graph, 16, seed=5, batch=4)
    exact, side = outputs(graph, unseen), outputs(graph, unseen, "abias")
    smoothed = graph.clone()
    smooth(smoothed, ["a", "b"], samples, INT8, INT8)
    (one,) = split_outliers(graph, ["a", "b"], samples, INT8, INT8)
    assert (one.tensor, one.layers) == ("n", ("a", "b"))
    assert len(one.channels) == 8 and set(LARGE) <= set(one.channels)
    assert one.error[1] < 0.5 * one.error[0]
    assert np.abs(outputs(graph, unseen) - exact).max() <= 1e-5 * np.abs(exact).max()
    assert np.abs(outputs(graph, unseen, "abias") - side).max() <= 1e-5 * np.abs(side).max()
    before = graph.digest()
    (after,) = smooth(graph, ["a", "b"], samples, INT8, INT8) or (None,)
    if after is None:
        assert graph.digest() == before
    assert loss(graph, samples, unseen, exact) < 0.5 * loss(smoothed, samples, unseen, exact)


def test_the_algebra() -> None:
    graph = normed()
    weight = graph.model.graph.initializers["wa"].const_value
    assert weight is not None
    (one,) = split_outliers(graph, ["a", "b"], samples_for(graph, 24, batch=8), INT8, INT8)
    made = graph.model.graph.initializers
    rest, thin = made["a/inlier_weight"].const_value, made["a/outlier_weight"].const_value
    mask, picked = made["n/inlier_mask"].const_value, made["n/outlier_channels"].const_value
    assert rest is not None and thin is not None and mask is not None and picked is not None
    where = list(one.channels)
    assert picked.numpy().tolist() == where
    assert np.flatnonzero(mask.numpy() == 0).tolist() == where
    np.testing.assert_array_equal(thin.numpy(), weight.numpy()[where])
    assert not rest.numpy()[where].any()
    others = np.setdiff1d(np.arange(CHANNELS), where)
    np.testing.assert_array_equal(rest.numpy()[others], weight.numpy()[others])
    # one mask and one gather serve both products
    assert (op_types(graph).count("Mul"), op_types(graph).count("Gather")) == (1, 1)


def test_the_sum_keeps_the_name_and_the_bias_stays_beside_its_product() -> None:
    graph = normed()
    split_outliers(graph, ["a", "b"], samples_for(graph, 24, batch=8), INT8, INT8)
    nodes = {str(n.name): n for n in graph.model.graph}
    total = nodes["a/add_outliers"]
    assert [str(v.name) for v in graph.model.graph.outputs] == ["y", "abias"]
    assert str(total.outputs[0].name) == "abias"
    assert total.inputs[0] is nodes["abias"].outputs[0] and nodes["abias"].inputs[1] is nodes["a"].outputs[0]
    assert {str(nodes[n].outputs[0].name) for n in ("a", "abias")} == {"a/inlier_part", "abias/inlier_part"}


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_the_thin_products_stay_float_and_the_plan_says_why(precision: str) -> None:
    graph = normed()
    samples = samples_for(graph, 24, batch=8)
    split_outliers(graph, ["a", "b"], samples, INT8, INT8)
    target = Target.load("l4")
    assert planned_layers(graph, target, Recipe(), precision) == ["a", "b"]
    asked = {"a/outliers": precision}
    plan = make_plan(graph, ranges_of(graph, samples), target, Recipe(), precision, asked)
    assert set(plan.activations) == {"n/inliers"}
    written = {layer.node: layer for layer in PlanFile.of(graph, plan, "l4", precision).layers}
    assert written["a/outliers"].format == "float"
    assert written["a/outliers"].reason == f"the outlier channels of a, 8 of {CHANNELS}"
    assert (written["a"].format, written["b"].format) == (precision, precision)


def test_the_range_that_is_quantized_lacks_the_outliers() -> None:
    graph = normed()
    samples = samples_for(graph, 24, batch=8)
    split_outliers(graph, ["a", "b"], samples, INT8, INT8)
    ranges = ranges_of(graph, samples)
    whole, rest = ranges.get("n"), ranges.get("n/inliers")
    assert whole is not None and rest is not None and rest.magnitude < 0.05 * whole.magnitude


def test_even_channels_few_channels_and_no_samples_are_left_alone() -> None:
    for graph in (normed(np.ones(CHANNELS, np.float32)), normed(channels=128)):
        before = graph.digest()
        assert split_outliers(graph, ["a", "b"], samples_for(graph, 24, batch=4), INT8, INT8) == []
        assert graph.digest() == before
    assert split_outliers(normed(), ["a", "b"], [], INT8, INT8) == []
    assert split_outliers(normed(), [], samples_for(normed(), 4), INT8, INT8) == []


def test_gptq_leaves_the_rows_of_outliers_zero() -> None:
    graph = normed()
    samples = samples_for(graph, 24, batch=8)
    (one,) = split_outliers(graph, ["a", "b"], samples, INT8, INT8)
    plan = make_plan(graph, ranges_of(graph, samples), Target.load("l4"), Recipe(), "int8")
    rounded = round_weights(graph, plan, samples, method="gptq")
    assert not rounded["a"][list(one.channels)].any() and rounded["a"].any()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_tensorrt_rtx_builds_it(precision: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    graph = net(
        [
            node("LayerNormalization", "x gain offset", "n"),
            node("MatMul", "n w", "p"),
            node("Add", "p b", "y"),
        ],
        {"x": [2, 16, CHANNELS]},
        ["y"],
        {"gain": GAIN, "offset": normal(CHANNELS), "w": normal(CHANNELS, 64, seed=1), "b": normal(64, seed=2)},
    )
    samples = samples_for(graph, 8)
    assert len(split_outliers(graph, ["p"], samples, INT8, INT8)) == 1
    ranges = ranges_of(graph, samples)
    insert_qdq(graph, make_plan(graph, ranges, Target.load("l4"), Recipe(), precision))
    lower_floats(graph, ir.DataType.FLOAT16, ranges)
    path = tmp_path / "split.onnx"
    graph.save(path)
    assert len(rtx_engine(path, "8.9")) > 10_000
