"""Which format each layer is to get, and what of it the rules of a target grant, several formats in one graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from engines import rtx_engine
from nets import attention_net, conv_net, flat_ranges, net, node, normal, ranges_of, residual_net, run, samples_for

from edgebig.build import Profile
from edgebig.errors import CalibrationError, PrecisionError
from edgebig.graph import Graph
from edgebig.quantize import Plan, insert_qdq, lower_floats, make_plan
from edgebig.quantize.assignment import FLOAT, Assignment
from edgebig.recipe import Recipe
from edgebig.target import Target

L4 = Target.load("l4")


def four_products() -> Graph:
    """x 1x256 through four products with 256 channels each, Relu between them."""
    names = ["a", "b", "c", "d"]
    nodes, last = [], "x"
    for name in names:
        nodes += [node("MatMul", f"{last} w{name}", name), node("Relu", name, f"r{name}")]
        last = f"r{name}"
    nodes.append(node("Identity", last, "y"))
    weights = {f"w{n}": normal(256, 256, seed=i, scale=0.06) for i, n in enumerate(names)}
    return net(nodes, {"x": ["batch", 256]}, ["y"], weights, opset=21)


def branches() -> Graph:
    """Two products that read x, added."""
    return net(
        [node("MatMul", "x wa", "a"), node("MatMul", "x wb", "b"), node("Add", "a b", "y")],
        {"x": ["batch", 256]},
        ["y"],
        {"wa": normal(256, 64, scale=0.1), "wb": normal(256, 64, seed=1, scale=0.1)},
        opset=21,
    )


def test_patterns_come_before_layers_and_layers_before_the_default() -> None:
    nodes = {str(n.name): n for n in conv_net().model.graph}
    assignment = Assignment(
        "int8", {"conv1": "float", "conv2": "fp8", "y": "int4"}, {"conv1": "it overflows"}, ("conv2", "p*")
    )
    plan = Plan()
    found = {name: assignment.of(n, plan) for name, n in nodes.items()}
    assert found == dict.fromkeys(nodes, "int8") | {"conv1": FLOAT, "conv2": FLOAT, "pool": FLOAT, "y": "int4"}
    assert plan.skipped == {
        "conv1": "it overflows",
        "conv2": "kept in float by the recipe (conv2)",
        "pool": "kept in float by the recipe (p*)",
    }
    assert assignment.formats() == {"int8", "fp8", "int4"}
    assert Assignment(FLOAT).formats() == set()


def test_a_reason_that_nobody_gave_and_one_that_stands_already() -> None:
    (first, *_) = conv_net().model.graph
    plan = Plan()
    assert Assignment(FLOAT).of(first, plan) == FLOAT and plan.skipped == {"conv1": "kept in float by the plan"}
    Assignment("int8", keep_float=("*",)).of(first, plan)
    assert plan.skipped == {"conv1": "kept in float by the plan"}


FORMATS = {"a": "int8", "b": "fp8", "c": "int4", "d": "int8-weights"}


def test_four_formats_in_one_graph_as_tensorrt_builds_them(tmp_path: Path) -> None:
    graph = four_products()
    samples = samples_for(graph, 8)
    expected = [run(graph, s)["y"] for s in samples]
    ranges = ranges_of(graph, samples)
    plan = make_plan(graph, ranges, L4, Recipe(), "int8", FORMATS)
    found = {w.node: (w.format.name, w.granularity) for w in plan.weights}
    assert found == {
        "a": ("int8", "per channel"),
        "b": ("fp8 e4m3", "per channel"),
        "c": ("int4", "blocks of 128"),
        "d": ("int8", "per channel"),
    }
    assert {n: (a.format.name, a.readers) for n, a in plan.activations.items()} == {
        "x": ("int8", ("a",)),
        "ra": ("fp8 e4m3", ("b",)),
    }
    assert plan.skipped == {}
    made = graph.clone()
    insert_qdq(made, plan)
    lower_floats(made, ir.DataType.FLOAT16, ranges)
    for sample, y in zip(samples, expected, strict=True):
        error = run(made, sample)["y"] - y
        assert 10 * np.log10((y**2).sum() / (error**2).sum()) > 13  # INT4 alone gives about 14 dB
    pytest.importorskip("tensorrt_rtx_bindings")
    made.save(tmp_path / "model.onnx")
    one, most = (1, 256), (4, 256)
    assert len(rtx_engine(tmp_path / "model.onnx", "8.9", {"x": Profile(one, one, most)})) > 10_000


def test_two_formats_of_one_tensor_the_first_is_taken() -> None:
    graph = branches()
    plan = make_plan(graph, flat_ranges(graph), L4, Recipe(), "int8", {"b": "fp8"})
    assert [(w.node, w.format.name) for w in plan.weights] == [("a", "int8")]
    assert plan.skipped == {"b": "x is in int8 for another layer already"}
    assert plan.activations["x"].readers == ("a",)
    weights_alone = make_plan(graph, flat_ranges(graph), L4, Recipe(), "int8", {"b": "int4"})
    assert {w.node: w.format.name for w in weights_alone.weights} == {"a": "int8", "b": "int4"}
    assert weights_alone.activations["x"].readers == ("a",)  # the other one reads floats
    insert_qdq(graph, weights_alone)
    (b,) = (n for n in graph.model.graph if n.name == "b")
    assert b.inputs[0] is not None and b.inputs[0].name == "x"


def test_the_skip_input_keeps_the_format_that_it_has() -> None:
    graph = residual_net()
    # x is INT8 for conv1; the addition fuses into conv2, which is FP8
    plan = make_plan(graph, flat_ranges(graph), L4, Recipe(), "int8", {"conv2": "fp8"})
    assert plan.skipped == {"add": "residual input: x is in int8 for another layer already"}
    assert plan.activations["x"].readers == ("conv1",)
    assert {w.node: w.format.name for w in plan.weights} == {"conv1": "int8", "conv2": "fp8 e4m3", "y": "int8"}


def test_a_float_default_quantizes_only_what_is_named() -> None:
    graph = conv_net()
    plan = make_plan(graph, flat_ranges(graph), L4, Recipe(), "fp16", {"conv2": "int8"}, {"conv2": "asked"})
    assert [w.node for w in plan.weights] == ["conv2"] and list(plan.activations) == ["pool"]
    assert make_plan(graph, None, L4, Recipe(), "fp16", {"conv2": "float"}).is_empty


def test_what_a_layer_cannot_have() -> None:
    graph = conv_net()
    with pytest.raises(PrecisionError, match="a100.* has no FP8"):
        make_plan(graph, flat_ranges(graph), Target.load("a100"), Recipe(), "int8", {"conv2": "fp8"})
    with pytest.raises(PrecisionError, match="cpu.* has no INT4"):
        make_plan(graph, flat_ranges(graph), Target.load("cpu"), Recipe(), "int8", {"y": "int4"})
    with pytest.raises(CalibrationError, match="int8 needs calibration samples: give --calib"):
        make_plan(graph, None, L4, Recipe(), "int4", {"conv2": "int8"})
    plan = make_plan(attention_net(), None, L4, Recipe(), "int4", {"q": "int8-weights"})
    assert plan.weights[-1].node == "q" and not plan.activations
