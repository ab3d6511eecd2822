"""Exactly which tensors and weights the rules for CPUs choose, and that ONNX Runtime fuses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import attention_net, conv_net, flat_ranges, net, node, normal, ranges_of, residual_net, run, samples_for

from edgebig.build import optimize_for_cpu
from edgebig.calibrate import Range, Ranges
from edgebig.graph import Graph
from edgebig.quantize import Plan, insert_qdq, make_plan
from edgebig.quantize.rules_cpu import weight_format
from edgebig.recipe import Recipe
from edgebig.target import Target


def plan_of(graph: Graph, ranges: Ranges | None = None, keep: tuple[str, ...] = ()) -> Plan:
    return make_plan(graph, ranges or flat_ranges(graph), Target.load("cpu"), Recipe(keep_float=keep), "int8")


def chosen(plan: Plan) -> tuple[list[str], list[str], list[str]]:
    """Activations, weights' nodes and nodes with integer biases."""
    return sorted(plan.activations), [w.node for w in plan.weights], plan.integer_biases


def test_a_conv_net_stays_quantized_from_end_to_end() -> None:
    plan = plan_of(conv_net())
    assert chosen(plan) == (["flat", "mean", "pool", "relu", "relu2", "x"], ["conv1", "conv2", "y"], ["conv1", "conv2"])
    assert [(w.axis, w.granularity) for w in plan.weights] == [(0, "per channel")] * 3
    assert not plan.skipped and all(a.readers is None for a in plan.activations.values())
    assert all(a.format.name == "uint8" for a in plan.activations.values())


def test_a_residual_block() -> None:
    plan = plan_of(residual_net())
    # relu2 comes after the addition, so no convolution fuses it
    assert chosen(plan) == (["add", "conv2", "relu1", "x"], ["conv1", "conv2"], ["conv1", "conv2"])
    assert list(plan.skipped_lines()) == ["y: its output is the model's output"]


def test_attention_has_its_projections_quantized() -> None:
    plan = plan_of(attention_net())
    assert chosen(plan) == (["mixed", "x"], ["q", "k", "v", "projected"], [])
    assert list(plan.skipped_lines()) == [
        "qk: its second input is computed, not a weight",
        "mixed: its second input is computed, not a weight",
    ]


@pytest.mark.parametrize(
    ("attributes", "axis"), [({"transB": 1}, 0), ({}, 1), ({"alpha": 2.0}, None), ({"beta": 0.5}, None)]
)
def test_gemm(attributes: dict[str, float], axis: int | None) -> None:
    graph = net(
        [node("Gemm", "x w b", "y", **attributes)], {"x": [2, 16]}, ["y"], {"w": normal(16, 16), "b": normal(16)}
    )
    plan = plan_of(graph)
    assert [w.axis for w in plan.weights] == ([] if axis is None else [axis])
    assert list(plan.skipped_lines()) == (
        [] if axis is not None else ["y: its alpha, beta or transA has no quantized kernel"]
    )


@pytest.mark.parametrize("kind", ["none", "computed"])
def test_a_convolution_whose_bias_is_no_weight(kind: str) -> None:
    nodes = [
        node("Conv", "x w -" if kind == "none" else "x w bias", "c"),
        node("Relu", "c", "r"),
        node("Neg", "r", "y"),
    ]
    inputs: dict[str, list[int | str]] = {"x": [1, 3, 8, 8]}
    if kind == "computed":
        nodes.insert(0, node("Exp", "b", "bias"))
        inputs["b"] = [4]
    graph = net(nodes, inputs, ["y"], {"w": normal(4, 3, 3, 3)})
    samples = samples_for(graph, 4)
    expected = run(graph, samples[0])["y"]
    plan = plan_of(graph, ranges_of(graph, samples))
    assert chosen(plan) == (["r", "x"], ["c"], [])
    insert_qdq(graph, plan)
    found = run(graph, samples[0])["y"]
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


def test_a_weight_of_two_nodes_and_an_activation_that_is_an_output() -> None:
    graph = net(
        [node("Relu", "x", "h"), node("MatMul", "h w", "a"), node("MatMul", "x w", "b"), node("Add", "a b", "y")],
        {"x": [2, 16]},
        ["h", "y"],
        {"w": normal(16, 16)},
    )
    (sample,) = samples_for(graph, 1)
    expected = run(graph, sample)
    plan = plan_of(graph, ranges_of(graph, [sample]))
    assert chosen(plan) == (["h", "x"], ["a", "b"], []) and not list(plan.skipped_lines())
    insert_qdq(graph, plan)
    found = run(graph, sample)
    for name in ("h", "y"):
        assert np.abs(found[name] - expected[name]).max() < 0.03 * np.abs(expected[name]).max()


def test_nodes_kept_float_by_patterns_and_ranges_that_say_nothing() -> None:
    plan = plan_of(conv_net(), keep=("conv1", "y*"))
    assert list(plan.skipped_lines())[0] == "conv1: kept in float by the recipe (conv1)"
    assert [w.node for w in plan.weights] == ["conv2"]
    graph = conv_net()
    ranges = flat_ranges(graph).by_tensor
    plan = plan_of(graph, Ranges({**ranges, "x": Range(0, 0), "pool": Range(-3.4e38, 1)}, 1, "min-max", ""))
    assert list(plan.skipped_lines()) == [
        "conv1: x was zero on every sample",
        "conv2: pool reaches 3.4e+38, as a mask does",
    ]
    plan = plan_of(graph, Ranges({k: v for k, v in ranges.items() if k != "x"}, 1, "min-max", ""))
    assert "conv1: the range of x is not known" in list(plan.skipped_lines())


def test_only_large_tables_of_rows_become_integers() -> None:
    table = normal(512, 128)
    graph = net(
        [node("Gather", "table ids", "rows"), node("Gather", "small ids2", "few"), node("Add", "rows few", "y")],
        {"ids": [4], "ids2": [4]},
        ["y"],
        {"table": table, "small": normal(16, 128)},
        types={"ids": "int64", "ids2": "int64"},
    )
    plan = plan_of(graph)
    assert plan.embeddings == ["rows"] and plan.summary() == ("1 embeddings in int8, per row",)
    insert_qdq(graph, plan)
    ids = np.array([0, 511, 7, 7])
    found = run(graph, {"ids": ids, "ids2": np.zeros(4, np.int64)})["y"] - normal(16, 128)[0]
    step = np.abs(table[ids]).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - table[ids]) <= step / 2 + 1e-6).all()
    assert sum(t.nbytes for t in graph.weights()) < table.nbytes / 3


@pytest.mark.parametrize(("architecture", "name"), [("aarch64", "int8"), ("x86_64", "int8 in 7 bits")])
def test_weights_leave_a_bit_free_where_sums_might_saturate(architecture: str, name: str) -> None:
    assert weight_format(architecture).name == name


@pytest.mark.parametrize("make", [conv_net, residual_net])
def test_onnxruntime_fuses_every_planned_convolution(make, tmp_path: Path) -> None:
    graph = make()
    plan = plan_of(graph, ranges_of(graph, samples_for(graph, 8)))
    insert_qdq(graph, plan)
    graph.save(tmp_path / "plain.onnx")
    optimize_for_cpu(tmp_path / "plain.onnx", tmp_path / "fused.onnx")
    found = [n.op_type for n in onnx.load(tmp_path / "fused.onnx").graph.node]
    planned = sum(n in {"conv1", "conv2", "conv3"} for n in (w.node for w in plan.weights))
    assert found.count("QLinearConv") == planned == 2
    floats = found.count("Conv") + found.count("FusedConv")
    assert floats == len(plan.skipped)
    if make is conv_net:
        assert floats == 0 and found.count("QuantizeLinear") == 1 and "Relu" not in found
