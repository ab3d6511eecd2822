"""Which nodes a DLA takes, by NVIDIA's lists: each rule with one node that it takes and one that it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebig.graph import Graph
from edgebig.quantize.rules_dla import dla_plan

HALF = TensorProto.FLOAT16
X = ("x", [1, 8, 16, 16])


def graph(
    op: str,
    *,
    x: tuple[str, list[int]] = X,
    weights: dict[str, Any] | None = None,
    extra: tuple[str, ...] = (),
    dtype: int = HALF,
    **attributes: Any,
) -> Graph:
    """A graph of one node that reads ``x``, further inputs of its shape, and weights."""
    given = weights or {}
    names = [x[0], *extra, *given]
    node = helper.make_node(op, names, ["y"], name="it", **attributes)
    values = [helper.make_tensor_value_info(name, dtype, x[1]) for name in (x[0], *extra)]
    made = helper.make_graph(
        [node], "net", values, [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in given.items()],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    return Graph(ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True)), "net")


def conv(*kernel: int) -> dict[str, Any]:
    return {"w": np.ones((8, 8, *kernel), np.float16)}


def resize(mode: str, *scales: float, **ways: str) -> Graph:
    weights = {"roi": np.zeros(0, np.float32), "s": np.array(scales, np.float32)}
    return graph("Resize", weights=weights, mode=mode, **ways)


def clip(low: float, high: float) -> Graph:
    return graph("Clip", weights={"low": np.float16(low), "high": np.float16(high)})


def part(start: int, end: int, axis: int, step: int = 1) -> Graph:
    bounds = {name: np.array([at]) for name, at in (("start", start), ("end", end), ("axis", axis), ("step", step))}
    return graph("Slice", x=("x", [2, 8, 16, 16]), weights=bounds)


def shape(*sizes: int) -> Graph:
    return graph("Reshape", weights={"sizes": np.array(sizes, np.int64)})


TAKEN = [
    graph("Conv", weights=conv(3, 3)),
    graph("Conv", weights=conv(16, 1), strides=[8, 1]),
    graph("ConvTranspose", weights=conv(2, 2), strides=[2, 2]),
    graph("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    graph("Relu"),
    graph("Add", extra=("z",)),
    graph("Concat", extra=("z",), axis=1),
    graph("Concat", extra=("z",), axis=-3),
    graph("Softmax", axis=1),
    graph("MatMul", x=("x", [4, 8]), weights={"w": np.ones((8, 3), np.float16)}),
    graph("PRelu", weights={"slope": np.ones((8, 1, 1), np.float16)}),
    graph("Transpose", perm=[0, 3, 1, 2]),
    graph("Conv", weights=conv(3, 3), dilations=[32, 1], pads=[2, 2, 2, 2]),
    graph("Conv", x=("x", [1, 64, 1, 8192]), weights={"w": np.ones((64, 1, 3, 3), np.float16)}, group=64, pads=[1] * 4),
    graph("ConvTranspose", x=("x", [1, 8, 4, 4]), weights=conv(1, 96)),
    resize("nearest", 1, 1, 32, 1),
    resize("linear", 1, 1, 4, 4),
    resize("nearest", 1, 1, 2, 2, coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    clip(0, 6),
    graph("LRN", size=5),
    part(0, 4, 1),
    shape(1, 4, 32, 16),
    graph("Softmax", x=("x", [1, 4096, 1, 1]), axis=1),
    graph("Softmax", x=("x", [1, 1024, 2, 1]), axis=1),
]
LEFT = [
    (graph("Conv", x=("x", [1, 8, 16]), weights=conv(3)), "it has 3 axes, and a DLA takes four"),
    (graph("Conv", x=("x", [1, 8, 64, 64]), weights=conv(33, 1)), "its kernel of 33 is not within 1 to 32"),
    (graph("Conv", weights=conv(1, 1), strides=[1, 9]), "its stride of 9 is not within 1 to 8"),
    (graph("ConvTranspose", weights=conv(2, 2), pads=[1, 0, 0, 0]), "a DLA takes no groups, dilation or padding in it"),
    (graph("ConvTranspose", weights=conv(2, 2), group=2), "a DLA takes no groups, dilation or padding in it"),
    (graph("MaxPool", kernel_shape=[9, 1]), "its window of 9 is not within 1 to 8"),
    (graph("GlobalAveragePool"), "NVIDIA lists no such operator for a DLA"),
    (graph("Relu", x=("x", [1, 128, 64])), "it has 3 axes, and a DLA takes four: batch, channels, height, width"),
    (graph("Relu", dtype=TensorProto.FLOAT), "it computes in float, and a DLA in FP16 and INT8 alone"),
    (graph("Relu", dtype=TensorProto.BFLOAT16), "it computes in bfloat16, and a DLA in FP16 and INT8 alone"),
    (graph("Relu", x=("x", [1, 8, 8193, 1])), "a size is above 8192, or the batch above 4096"),
    (graph("Concat", extra=("z",), axis=2), "a DLA joins channels alone"),
    (graph("MatMul", extra=("z",)), "its second input is computed, and a DLA takes a constant one"),
    (graph("Cast", to=TensorProto.FLOAT), "it changes the number format"),
    (resize("cubic", 1, 1, 2, 2), "a DLA resizes to nearest or bilinear"),
    (resize("linear", 1, 1, 5, 1), "a DLA resizes height and width by whole numbers up to 4"),
    (resize("nearest", 1, 1, 1.5, 2), "a DLA resizes height and width by whole numbers up to 32"),
    (resize("nearest", 1, 2, 1, 1), "a DLA resizes height and width by whole numbers up to 32"),
    (graph("Conv", x=("x", [1, 8, 64, 64]), weights=conv(2, 2), dilations=[33, 1]), "its dilation of 33 is not within"),
    (graph("Conv", weights=conv(3, 3), pads=[3, 0, 0, 0]), "its padding is not less than its kernel"),
    (
        graph("Conv", x=("x", [1, 64, 8, 4096]), weights={"w": np.ones((1, 64, 1, 1), np.float16)}),
        "it needs 17 banks of a DLA's convolution buffer, which has 16",
    ),
    (graph("ConvTranspose", weights=conv(1, 95)), "its kernel of 95 is not within 1 to 32"),
    (graph("ConvTranspose", weights=conv(24, 24)), "TensorRT leaves square kernels of 23 to 32 out"),
    (clip(-1, 1), "a DLA clips from 0 to between 1 and 127 alone"),
    (clip(0, 200), "a DLA clips from 0 to between 1 and 127 alone"),
    (graph("LRN", size=4), "a DLA normalizes over 3, 5, 7 or 9 channels"),
    (graph("Concat", axis=1), "a DLA joins channels alone, of two inputs or more"),
    (graph("Softmax", x=("x", [1, 1025, 2, 1]), axis=1), "its axis has 1025 sizes, and a DLA takes 1024"),
    (part(0, 1, 0), "a DLA slices four axes, and not the batch"),
    (shape(1, 2048), "it changes the number of axes or moves the batch"),
    (part(0, 8, 1, 2), "a DLA slices in steps of 1"),
    (graph("Softmax", axis=0), "it goes along the batch"),
    (
        resize("linear", 1, 1, 2, 2, coordinate_transformation_mode="align_corners"),
        "a DLA has no linear resize with align_corners",
    ),
    (
        resize("nearest", 1, 1, 2, 2, coordinate_transformation_mode="asymmetric", nearest_mode="ceil"),
        "a DLA has no nearest resize with asymmetric and ceil",
    ),
    (graph("Flatten"), "NVIDIA lists no such operator for a DLA"),
    (graph("Cos"), "NVIDIA lists no such operator for a DLA"),
    (graph("Less", extra=("z",)), "a DLA compares in INT8 alone"),
]


@pytest.mark.parametrize("taken", TAKEN, ids=lambda g: g.nodes()[0].op_type)
def test_a_dla_takes(taken: Graph) -> None:
    plan = dla_plan(taken, "8.7")
    assert (plan.layers, plan.on_gpu) == (1, ())


@pytest.mark.parametrize(("left", "reason"), LEFT)
def test_a_dla_leaves(left: Graph, reason: str) -> None:
    plan = dla_plan(left, "8.7")
    assert plan.layers == 1
    (found,) = plan.on_gpu
    assert (found.node, found.op) == ("it", left.nodes()[0].op_type)
    assert found.reason.startswith(reason)
    assert plan.summary() == (
        "a DLA takes 0 of 1 layers, as far as NVIDIA's documents tell",
        f"not on the DLA: 1 {found.op}: {found.reason}",
    )


def test_a_xavier_takes_less() -> None:
    assert dla_plan(graph("Softmax", axis=1), "7.2").on_gpu[0].reason == "a Xavier's DLA has no Softmax"
    pool = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    (left,) = dla_plan(graph("AveragePool", **pool), "7.2").on_gpu
    assert left.reason == "a Xavier's DLA counts the padding in an average"
    assert dla_plan(graph("AveragePool", **pool, count_include_pad=1), "7.2").on_gpu == ()
    assert dla_plan(graph("AveragePool", **pool), "8.7").on_gpu == ()


def test_weights_behind_a_pair_are_constant_and_pairs_are_no_layers() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="d"),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["w"], name="dw"),
        helper.make_node("MatMul", ["xd", "w"], ["y"], name="it"),
    ]
    weights = {"s": np.array(0.1, np.float16), "z": np.array(0, np.int8), "wq": np.ones((8, 3), np.int8)}
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", HALF, [4, 8])],
        [helper.make_tensor_value_info("y", HALF, [4, 3])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    plan = dla_plan(Graph(ir.from_proto(model), "net"))
    assert (plan.layers, plan.on_gpu) == (1, ())


def test_the_buffer_holds_twice_as_wide_a_row_in_int8() -> None:
    """At 64 channels and a width of 4096, FP16 takes 16 banks for a row and INT8 takes 8, and both one for weights."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="d"),
        helper.make_node("Conv", ["xd", "w"], ["y"], name="it"),
    ]
    weights = {"s": np.float16(0.1), "z": np.int8(0), "w": np.ones((1, 64, 1, 1), np.float16)}
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", HALF, [1, 64, 8, 4096])],
        [helper.make_tensor_value_info("y", HALF, [1, 1, 8, 4096])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    assert dla_plan(Graph(ir.from_proto(onnx.shape_inference.infer_shapes(model)), "net")).on_gpu == ()
