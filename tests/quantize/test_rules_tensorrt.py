"""Exactly which tensors and weights the rules for TensorRT choose, and that its builder takes the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from engines import rtx_engine
from nets import (
    Sample,
    attention_net,
    conv_net,
    flat_ranges,
    net,
    node,
    normal,
    ranges_of,
    residual_net,
    run,
    samples_for,
)

from edgebig.build import Profile
from edgebig.calibrate import Range, Ranges
from edgebig.errors import CalibrationError, PrecisionError
from edgebig.graph import Graph
from edgebig.graph.passes import RaiseOpset, run_passes
from edgebig.graph.values import constant
from edgebig.quantize import Plan, clamp_masks, insert_qdq, lower_floats, make_plan
from edgebig.quantize.rules import check_precision
from edgebig.recipe import Recipe
from edgebig.target import Target

RTX = {"7.5": "t4", "8.0": "a100", "8.6": "a10", "8.9": "l4", "12.0": "rtx-5090"}


def plan_of(graph: Graph, precision: str = "int8", ranges: Ranges | None = None, keep: tuple[str, ...] = ()) -> Plan:
    return make_plan(graph, ranges or flat_ranges(graph), Target.load("l4"), Recipe(keep_float=keep), precision)


def chosen(plan: Plan) -> tuple[dict[str, tuple[str, ...] | None], list[str]]:
    return {k: a.readers for k, a in plan.activations.items()}, [w.node for w in plan.weights]


def upsampling_net() -> Graph:
    """x 1x8x8x8 -> transposed, transposed in groups, depthwise and pointwise convolutions."""
    return net(
        [
            node("ConvTranspose", "x wt", "up", strides=[2, 2], kernel_shape=[2, 2]),
            node("Relu", "up", "r"),
            node("ConvTranspose", "r wg", "grouped", group=4, strides=[2, 2], kernel_shape=[2, 2]),
            node("Conv", "grouped wd", "depth", group=8, pads=[1, 1, 1, 1]),
            node("Conv", "depth wp", "y"),
        ],
        {"x": ["batch", 8, 8, 8]},
        ["y"],
        {"wt": normal(8, 8, 2, 2), "wg": normal(8, 2, 2, 2), "wd": normal(8, 1, 3, 3), "wp": normal(4, 8, 1, 1)},
    )


def wide_net() -> Graph:
    """x 1x256 -> matrix products whose weights divide into blocks of 128, and one whose do not."""
    return net(
        [
            node("MatMul", "x w1", "h"),
            node("Relu", "h", "r"),
            node("Gemm", "r w2 b2", "g", transB=1),
            node("MatMul", "g w3", "y"),
        ],
        {"x": ["batch", 256]},
        ["y"],
        {"w1": normal(256, 128), "w2": normal(64, 128), "b2": normal(64), "w3": normal(64, 16)},
    )


NETS: dict[str, Callable[[], Graph]] = {
    "conv": conv_net,
    "residual": residual_net,
    "attention": attention_net,
    "masked": lambda: attention_net(-3.4e38),
    "upsampling": upsampling_net,
    "wide": wide_net,
}


def test_inputs_are_quantized_and_outputs_are_not() -> None:
    plan = plan_of(conv_net())
    assert chosen(plan) == ({"x": ("conv1",), "pool": ("conv2",), "flat": ("y",)}, ["conv1", "conv2", "y"])
    assert plan.integer_biases == [] and plan.embeddings == [] and not list(plan.skipped_lines())
    assert all(a.zero_point == 0 and a.format.symmetric for a in plan.activations.values())
    assert plan.summary() == ("3 activations in int8", "3 weights in int8, per channel")


def test_the_skip_input_of_a_residual_addition_is_quantized() -> None:
    activations, weights = chosen(plan_of(residual_net()))
    assert activations == {"x": ("conv1", "add"), "relu1": ("conv2",), "relu2": ("y",)}
    assert weights == ["conv1", "conv2", "y"]


def test_an_addition_after_a_matrix_product_is_left_alone() -> None:
    plan = plan_of(attention_net())
    assert chosen(plan) == ({"x": ("q", "k", "v"), "mixed": ("projected",)}, ["q", "k", "v", "projected"])
    assert [line.split(":")[0] for line in plan.skipped_lines()] == ["qk", "mixed"]


def test_channel_axes() -> None:
    plan = plan_of(upsampling_net())
    assert [(w.node, w.axis) for w in plan.weights] == [("up", 1), ("grouped", None), ("depth", 0), ("y", 0)]
    assert [(w.node, w.axis) for w in plan_of(wide_net()).weights] == [("h", 1), ("g", 0), ("y", 1)]


def test_fp8_leaves_transposed_convolutions_alone() -> None:
    plan = plan_of(upsampling_net(), "fp8")
    assert chosen(plan) == ({"grouped": ("depth",), "depth": ("y",)}, ["depth", "y"])
    assert list(plan.skipped_lines()) == [
        "up: TensorRT has no FP8 ConvTranspose",
        "grouped: TensorRT has no FP8 ConvTranspose",
    ]


def test_int4_is_by_block_and_leaves_activations_alone() -> None:
    plan = plan_of(wide_net(), "int4")
    assert [(w.node, w.axis, w.block) for w in plan.weights] == [("h", 0, 128), ("g", 1, 128), ("y", 0, 64)]
    assert plan.activations == {} and plan.skipped == {}
    assert plan.summary() == ("2 weights in int4, blocks of 128", "1 weights in int4, blocks of 64")


def test_what_stays_float_and_why() -> None:
    graph = residual_net()
    ranges = flat_ranges(graph).by_tensor
    plan = plan_of(graph, ranges=Ranges({**ranges, "relu1": Range(0, 0)}, 1, "", ""), keep=("conv1",))
    assert list(plan.skipped_lines()) == [
        "conv1: kept in float by the recipe (conv1)",
        "conv2: relu1 was zero on every sample",
    ]
    assert chosen(plan) == ({"relu2": ("y",)}, ["y"])  # no quantized convolution, so no skip input


def test_one_activation_with_readers_that_stay_float() -> None:
    graph = net(
        [node("Relu", "x", "h"), node("MatMul", "h w", "m"), node("Sigmoid", "h", "s"), node("Mul", "m s", "y")],
        {"x": [2, 16]},
        ["y"],
        {"w": normal(16, 16)},
    )
    plan = plan_of(graph)
    assert chosen(plan) == ({"h": ("m",)}, ["m"])
    insert_qdq(graph, plan)
    (sigmoid,) = (n for n in graph.model.graph if n.op_type == "Sigmoid")
    assert str(sigmoid.inputs[0].name) == "h"


def test_refusals() -> None:
    for target, precision, has in (
        ("agx-orin-64gb", "fp8", "fp32, fp16, bf16, int8, int4"),
        ("a100", "fp8", "int8"),
        ("t4", "bf16", "fp16"),
        ("cpu", "fp16", "fp32, int8"),
    ):
        with pytest.raises(PrecisionError, match=rf"{target}.* has no {precision.upper()}: choose one of .*{has}"):
            check_precision(Target.load(target), precision)
    check_precision(Target.load("cpu"), "auto")
    with pytest.raises(CalibrationError, match="int8 needs calibration samples: give --calib"):
        make_plan(conv_net(), None, Target.load("l4"), Recipe(), "int8")
    assert make_plan(conv_net(), None, Target.load("l4"), Recipe(), "fp16").is_empty


def carried_out(graph: Graph, precision: str, target: Target, samples: list[Sample]) -> tuple[Graph, Plan]:
    """The graph as a compile for ``target`` makes it."""
    run_passes(graph, [RaiseOpset(21 if precision == "int4" else 19)])
    observed = graph.clone()
    clamp_masks(observed)
    ranges = ranges_of(observed, samples)
    made = graph.clone()
    plan = make_plan(made, ranges, target, Recipe(), precision)
    clamp_masks(made)
    insert_qdq(made, plan)
    lower_floats(made, ir.DataType.FLOAT16, ranges)
    return made, plan


def least_sqnr(expected: list[Sample], found: list[Sample]) -> float:
    pairs = [(a["y"].astype(np.float64), b["y"].astype(np.float64)) for a, b in zip(expected, found, strict=True)]
    return min(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()) for a, b in pairs)


def check_legal(graph: Graph) -> None:
    """TensorRT's rules for Q/DQ: zero points of zero, positive scales, no integer biases."""
    for found in graph.model.graph:
        if found.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            scale, zero = constant(found.inputs[1]), constant(found.inputs[2])
            assert scale is not None and (scale.numpy().astype(np.float64) > 0).all()
            assert zero is not None and not zero.numpy().astype(np.float32).any()
            assert found.inputs[0].dtype != ir.DataType.INT32


@pytest.mark.parametrize(
    ("precision", "capability"),
    [
        ("int8", "7.5"),
        ("int8", "8.0"),
        ("int8", "8.6"),
        ("int8", "8.9"),
        ("int8", "12.0"),
        ("fp8", "8.9"),
        ("fp8", "12.0"),
        ("int4", "8.0"),
        ("int4", "8.9"),
    ],
)
def test_the_builder_takes_every_net_and_it_stays_near(precision: str, capability: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    bound = {"int8": 26, "fp8": 18, "int4": 11}[precision]
    target = Target.load(RTX[capability])
    assert target.compute_capability == capability
    for name, make in NETS.items():
        graph = make()
        samples = samples_for(graph, 6)
        expected = [run(graph, s) for s in samples]
        made, plan = carried_out(graph, precision, target, samples)
        check_legal(made)
        assert least_sqnr(expected, [run(made, s) for s in samples]) > bound, name
        # its only layers are convolutions
        assert plan.is_empty == (precision == "int4" and name in {"residual", "upsampling"})
        made.save(tmp_path / "model.onnx")
        one, most = ((b, *graph.inputs[0].shape[1:]) for b in (1, 4))
        assert len(rtx_engine(tmp_path / "model.onnx", capability, {"x": Profile(one, one, most)})) > 10_000
