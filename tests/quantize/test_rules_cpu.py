"""Exactly which tensors and weights the rules for CPUs choose, and that ONNX Runtime fuses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import attention_net, conv_net, flat_ranges, net, node, normal, ranges_of, residual_net, run, samples_for

from edgebig.build import optimize_for_cpu
from edgebig.calibrate import Range, Ranges
from edgebig.graph import Executor, Graph
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
    assert chosen(plan) == (
        ["flat", "mean", "pool", "relu", "relu2", "x"],
        ["conv1", "conv2", "y"],
        ["conv1", "conv2", "y"],
    )
    assert [(w.axis, w.granularity) for w in plan.weights] == [(0, "per channel")] * 3
    assert not plan.skipped and all(a.readers is None for a in plan.activations.values())
    assert all(a.format.name == "uint8" for a in plan.activations.values())


def test_a_residual_block() -> None:
    plan = plan_of(residual_net())
    # nothing quantized reads the addition, which only the layer in float at the end follows
    assert chosen(plan) == (["conv2", "relu1", "x"], ["conv1", "conv2"], ["conv1", "conv2"])
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


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize(("bias", "fused"), [("vector", True), ("none", True), ("row", False), ("computed", False)])
def test_a_gemm_is_one_integer_kernel_or_stays_float(transposed: int, bias: str, fused: bool, tmp_path: Path) -> None:
    weights = {"w": normal(*((48, 32) if transposed else (32, 48)), scale=0.3)}
    weights |= {"vector": {"b": normal(48)}, "row": {"b": normal(1, 48)}}.get(bias, {})
    inputs: dict[str, list[int | str]] = {"x": ["n", 32]} | ({"b": [48]} if bias == "computed" else {})
    product = node("Gemm", "x w" if bias == "none" else "x w b", "g", transB=transposed)
    graph = net([product, node("Sigmoid", "g", "y")], inputs, ["y"], weights)
    samples = samples_for(graph, 4, batch=8)
    expected = run(graph, samples[0])["y"]
    plan = plan_of(graph, ranges_of(graph, samples))
    assert [w.node for w in plan.weights] == (["g"] if fused else [])
    assert plan.skipped == (
        {} if fused else {"g": "its bias is not a vector of constants, so that no quantized kernel takes it"}
    )
    insert_qdq(graph, plan)
    assert ("QGemm" in fused_operators(graph, tmp_path)) == fused
    assert np.abs(run(graph, samples[0], "all")["y"] - expected).max() < 0.02


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
    assert next(iter(plan.skipped_lines())) == "conv1: kept in float by the recipe (conv1)"
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


def residual_block(quantized_skip: bool) -> Graph:
    """x 1x8x32: h = x or relu(conv(x)), then y = norm(h wa + h) wb."""
    nodes = [node("Conv", "x wc bc", "c"), node("Relu", "c", "h")] if quantized_skip else [node("Sigmoid", "x", "h")]
    return net(
        [
            *nodes,
            node("MatMul", "h wa", "a"),
            node("Add", "a h", "s"),
            node("LayerNormalization", "s gain", "n"),
            node("MatMul", "n wb", "y"),
        ],
        {"x": ["batch", 8, 32]},
        ["y"],
        {
            "wc": normal(8, 8, 1, seed=1, scale=0.3),
            "bc": normal(8, seed=2),
            "wa": normal(32, 32, seed=3, scale=0.2),
            "gain": np.ones(32, np.float32),
            "wb": normal(32, 32, seed=4, scale=0.2),
        },
    )


def fused_operators(graph: Graph, folder: Path) -> list[str]:
    graph.save(folder / "plain.onnx")
    optimize_for_cpu(folder / "plain.onnx", folder / "fused.onnx")
    return [n.op_type for n in onnx.load(folder / "fused.onnx").graph.node]


def test_a_residual_addition_reads_what_was_not_rounded(tmp_path: Path) -> None:
    graph = residual_block(quantized_skip=False)
    samples = samples_for(graph, 8)
    plan = plan_of(graph, ranges_of(graph, samples))
    assert {name: a.readers for name, a in plan.activations.items()} == {"h": ("a",), "n": None}
    everywhere = graph.clone()
    exact = [run(graph, s)["y"] for s in samples]
    insert_qdq(graph, plan)
    (addition,) = (n for n in graph.model.graph if n.op_type == "Add")
    assert [str(v.name) for v in addition.inputs] == ["a", "h"]
    # what the rule is for: the sum keeps the float it had
    plan.activations["h"] = replace(plan.activations["h"], readers=None)
    insert_qdq(everywhere, plan)

    def error(made: Graph) -> float:
        return float(np.mean([np.square(run(made, s)["y"] - y).mean() for s, y in zip(samples, exact, strict=True)]))

    assert error(graph) < error(everywhere)
    found = fused_operators(graph, tmp_path)
    assert "MatMul" not in found and "DequantizeLinear" not in found
    assert sum(n in {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"} for n in found) == 2
    assert found.count("QuantizeLinear") == 2
    for sample, y in zip(samples, exact, strict=True):
        with Executor(tmp_path / "fused.onnx", "off") as fused:
            assert np.abs(fused.run(sample)["y"] - y).max() < 0.05 * np.abs(y).max()


def test_what_an_integer_kernel_gives_has_one_kind_of_reader(tmp_path: Path) -> None:
    graph = residual_block(quantized_skip=True)
    plan = plan_of(graph, ranges_of(graph, samples_for(graph, 8)))
    # the convolution's result exists rounded alone: the addition takes it as the product does
    assert {name: a.readers for name, a in plan.activations.items()} == {"x": None, "h": None, "n": None}
    insert_qdq(graph, plan)
    found = fused_operators(graph, tmp_path)
    assert found.count("QLinearConv") == 1 and found.count("MatMulIntegerToFloat") == 2
    assert not {"Conv", "FusedConv", "MatMul", "Relu"} & set(found)
    assert found.count("DequantizeLinear") == 1  # for the addition


def fire_net() -> Graph:
    """x 1x8x16x16 -> two convolutions side by side, joined, pooled, a last convolution, mean, Softmax -> y."""
    nodes = [
        node("Conv", "x w1 b1", "c1"),
        node("Relu", "c1", "r1"),
        node("Conv", "x w2 b2", "c2", pads=[1, 1, 1, 1]),
        node("Relu", "c2", "r2"),
        node("Concat", "r1 r2", "joined", axis=1),
        node("MaxPool", "joined", "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "pool w3 b3", "c3"),
        node("Relu", "c3", "r3"),
        node("GlobalAveragePool", "r3", "mean"),
        node("Flatten", "mean", "flat"),
        node("Softmax", "flat", "y", axis=1),
    ]
    weights = {"w1": normal(16, 8, 1, 1, seed=1, scale=0.1), "w2": normal(16, 8, 3, 3, seed=2, scale=0.3)}
    weights |= {"w3": normal(10, 32, 1, 1, seed=3, scale=0.2)}
    return net(
        nodes, {"x": [1, 8, 16, 16]}, ["y"], weights | {f"b{i}": normal(len(weights[f"w{i}"])) for i in (1, 2, 3)}
    )


def test_what_is_only_moved_is_rounded_once(tmp_path: Path) -> None:
    graph = fire_net()
    samples = samples_for(graph, 8)
    expected = [run(graph, s)["y"] for s in samples]
    ranges = ranges_of(graph, samples)
    plan = plan_of(graph, ranges)
    # the mean and what follows it lead to no quantized layer
    assert sorted(plan.activations) == ["joined", "pool", "r1", "r2", "r3", "x"]
    (shared,) = {(plan.activations[n].scale, plan.activations[n].zero_point) for n in ("r1", "r2", "joined", "pool")}
    assert shared == (pytest.approx(max(ranges.by_tensor[n].max for n in ("r1", "r2")) / 255), 0)
    insert_qdq(graph, plan)
    found = fused_operators(graph, tmp_path)
    assert found.count("QLinearConv") == 3 and found.count("QLinearConcat") == 1
    assert found.count("QuantizeLinear") == found.count("DequantizeLinear") == 1
    values = {str(v.name): v for n in graph.model.graph for v in n.outputs}
    names = ["r1/dequantized/0", "r2/dequantized/0", "pool/dequantized/0"]
    graph.model.graph.outputs.extend(values[n] for n in names)
    for sample, y in zip(samples, expected, strict=True):
        made = run(graph, sample)
        joined = np.concatenate([made[n] for n in names[:2]], axis=1)
        pooled = joined.reshape(1, 32, 8, 2, 8, 2).max(axis=(3, 5))
        np.testing.assert_array_equal(made[names[2]], pooled)
        assert np.abs(made["y"] - y).max() < 0.02


def test_what_others_read_too_keeps_its_own_scale() -> None:
    def made(*more: onnx.NodeProto) -> Plan:
        nodes = [node("Conv", "x w", "a"), node("Relu", "a", "ra"), node("Conv", "x w2", "b"), node("Relu", "b", "rb")]
        nodes += [node("Concat", "ra rb", "joined", axis=1), node("Conv", "joined w3", "c"), node("Sigmoid", "c", "y")]
        weights = {"w": normal(4, 4, 1, 1), "w2": normal(4, 4, 1, 1, seed=1, scale=9.0), "w3": normal(4, 8, 1, 1)}
        graph = net([*nodes, *more], {"x": [1, 4, 6, 6]}, ["y", *(n.output[0] for n in more)], weights)
        return plan_of(graph, ranges_of(graph, samples_for(graph, 4)))

    alone, shared = made(), made(node("Neg", "ra", "z"))
    assert alone.activations["ra"].scale == alone.activations["rb"].scale == alone.activations["joined"].scale
    assert shared.activations["ra"].scale < alone.activations["ra"].scale / 2
    assert shared.activations["rb"].scale == shared.activations["joined"].scale == alone.activations["rb"].scale


def test_an_addition_and_its_relu_are_one_kernel(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w1", "c1"),
        node("Conv", "x w2", "c2"),
        node("Add", "c1 c2", "sum"),
        node("Relu", "sum", "r"),
    ]
    nodes += [node("Conv", "r w3", "c3"), node("Sigmoid", "c3", "y")]
    graph = net(nodes, {"x": [1, 8, 6, 6]}, ["y"], {f"w{i}": normal(8, 8, 1, 1, seed=i, scale=0.3) for i in (1, 2, 3)})
    samples = samples_for(graph, 6)
    expected = run(graph, samples[0])["y"]
    plan = plan_of(graph, ranges_of(graph, samples))
    assert sorted(plan.activations) == ["c1", "c2", "c3", "r", "x"]
    insert_qdq(graph, plan)
    found = fused_operators(graph, tmp_path)
    assert found.count("QLinearAdd") == 1 and found.count("QLinearConv") == 3 and "Relu" not in found
    assert np.abs(run(graph, samples[0], "all")["y"] - expected).max() < 0.03


def test_a_layer_left_in_float_reads_floats(tmp_path: Path) -> None:
    graph = attention_net()
    plan = plan_of(graph, ranges_of(graph, samples_for(graph, 6)), keep=("k",))
    assert plan.activations["x"].readers == ("q", "v")
    insert_qdq(graph, plan)
    nodes = {str(n.name): n for n in graph.model.graph}
    assert [str(nodes[n].inputs[0].name) for n in ("k", "y")] == ["x", "projected"]
    assert str(nodes["y"].inputs[1].name) == "x"
    found = fused_operators(graph, tmp_path)
    # three products in INT8; kᵀ, q kᵀ and p v in float
    assert found.count("MatMulIntegerToFloat") == 3
    assert sum(n in {"MatMul", "FusedMatMul"} for n in found) == 3


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_a_product_with_an_activation_behind_it_gives_integers(op: str, activation: str, tmp_path: Path) -> None:
    clip = " zero six" if activation == "Clip" else ""
    graph = net(
        [
            node(op, "x w" + (" b" if op == "Gemm" else ""), "p"),
            node(activation, "p" + clip, "r"),
            node("Sigmoid", "r", "y"),
        ],
        {"x": ["n", 64]},
        ["y"],
        {"w": normal(64, 64, scale=0.3), "b": normal(64), "zero": np.float32(0), "six": np.float32(6)},
    )
    samples = samples_for(graph, 8, batch=8)
    expected = run(graph, samples[0])["y"]
    plan = plan_of(graph, ranges_of(graph, samples))
    assert sorted(plan.activations) == ["r", "x"] and plan.activations["r"].readers is None
    insert_qdq(graph, plan)
    found = fused_operators(graph, tmp_path)
    assert found == ["QuantizeLinear", "QLinearMatMul" if op == "MatMul" else "QGemm", "DequantizeLinear", "Sigmoid"]
    assert np.abs(run(graph, samples[0], "all")["y"] - expected).max() < 0.03


def test_a_product_whose_activation_is_the_models_output_stays_float() -> None:
    graph = net([node("MatMul", "x w", "p"), node("Relu", "p", "y")], {"x": ["n", 64]}, ["y"], {"w": normal(64, 64)})
    assert plan_of(graph).skipped == {"p": "its output is the model's output"}
