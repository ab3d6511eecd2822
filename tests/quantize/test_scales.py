"""Scales as a plan asks for them, NVFP4's two levels among them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from engines import rtx_engine
from nets import Array, net, node, normal, run, samples_for
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgebig.errors import BuildError, GraphError
from edgebig.graph import Executor, Graph
from edgebig.quantize import insert_qdq, lower_floats, rules_weights
from edgebig.quantize.assignment import Assignment
from edgebig.quantize.formats import FP8, NVFP4, NVFP4_OPSET, refusal
from edgebig.quantize.plan import WeightChoice
from edgebig.quantize.repair.weights import round_weights
from edgebig.quantize.scales import fp8_scales, nearest, spread, tensor_scale, weight_scales


def mlp(scale: float = 0.02) -> Graph:
    return net(
        [node("MatMul", "x w1", "h"), node("Relu", "h", "r"), node("Gemm", "r w2", "y", transB=1)],
        {"x": [8, 64]},
        ["y"],
        {"w1": normal(64, 96, seed=1, scale=scale), "w2": normal(32, 96, seed=2, scale=0.001)},
        opset=NVFP4_OPSET,
    )


def reference(graph: Graph, sample: dict[str, Array]) -> Array:
    """By ONNX's own reference: ONNX Runtime has no kernel for FLOAT4E2M1."""
    (y,) = ReferenceEvaluator(ir.to_proto(graph.model)).run(["y"], sample)
    return np.asarray(y)


@pytest.mark.parametrize("clip", ["max", "mse"])
def test_nvfp4_scales_are_fp8_parts_of_the_tensors(clip) -> None:
    weight = normal(64, 8, seed=3)
    weight[:16, 0] = 0
    weight[16:32, 1] *= 1e-9
    choice = WeightChoice("n", 1, NVFP4, 0, 16, clip)
    scale, whole = weight_scales(weight, choice), tensor_scale(weight)
    assert scale.shape == (4, 8) and scale.dtype == np.float32 and (scale > 0).all()
    parts = fp8_scales(scale, whole)
    assert parts.dtype == ml_dtypes.float8_e4m3fn
    # insertion splits them again, and must get the same scales
    np.testing.assert_array_equal(parts.astype(np.float32) * whole, scale)
    if clip == "max":
        assert scale.max() == pytest.approx(np.abs(weight).max() / 6, rel=1e-6)
        assert parts.astype(np.float32).max() == FP8.high
    values = nearest(weight, choice)
    assert values.dtype == ml_dtypes.float4_e2m1fn and not values[:16, 0].astype(np.float32).any()
    restored = values.astype(np.float32) * spread(scale, choice, weight.shape)
    signal = np.square(weight).sum()
    assert 10 * np.log10(signal / np.square(restored - weight).sum()) > 18


@pytest.mark.parametrize("lowered", [False, True])
def test_nvfp4_is_what_onnx_says_and_what_blackwell_builds(tmp_path: Path, lowered: bool) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    graph = mlp()
    plan = rules_weights.make(graph, Assignment("nvfp4"), None, NVFP4)
    assert [(w.node, w.axis, w.block) for w in plan.weights] == [("h", 0, 16), ("y", 1, 16)]
    samples = samples_for(graph, 8)
    signal = sum(np.square(run(graph, s)["y"]).sum() for s in samples)
    found = {}
    for method in ("nearest", "gptq"):
        made = graph.clone()
        insert_qdq(made, plan, round_weights(graph, plan, samples, method=method))
        if lowered:
            lower_floats(made, ir.DataType.FLOAT16, None)
        noise = sum(np.square(reference(made, s) - run(graph, s)["y"]).sum() for s in samples)
        found[method] = 10 * np.log10(signal / noise)
    assert found["nearest"] > 15 and found["gptq"] > found["nearest"] + 2
    made.save(tmp_path / "nvfp4.onnx")
    assert len(rtx_engine(tmp_path / "nvfp4.onnx", "12.0")) > 10_000
    with pytest.raises(BuildError, match="8.9"):
        rtx_engine(tmp_path / "nvfp4.onnx", "8.9")
    assert refusal("nvfp4", "12.0") is None and "8.9" in str(refusal("nvfp4", "8.9"))


@pytest.mark.parametrize("opset", [24, 25])
def test_mxfp8_is_refused_as_long_as_the_parser_refuses_it(opset: int, tmp_path: Path) -> None:
    """When this fails, TensorRT's parser has learnt MXFP8's scales."""
    pytest.importorskip("tensorrt_rtx_bindings")
    graph = net(
        [
            node("DequantizeLinear", "q s", "w", axis=0, block_size=32, output_dtype=1),
            node("MatMul", "x w", "y"),
        ],
        {"x": [4, 64]},
        ["y"],
        {"q": normal(64, 32).astype(ml_dtypes.float8_e4m3fn), "s": np.ones((2, 32), ml_dtypes.float8_e8m0fnu)},
        opset=opset,
    )
    graph.save(tmp_path / "mxfp8.onnx")
    with pytest.raises(BuildError, match="Failed to import initializer|Unsupported ONNX data type|cannot be imported"):
        rtx_engine(tmp_path / "mxfp8.onnx", "12.0")
    assert "FLOAT8E8M0" in str(refusal("mxfp8", "12.0"))
    assert refusal("int8", None) is None and "ONNX Runtime" in str(refusal("nvfp4", None))


def test_mxfp8_in_an_operator_of_tensorrts_own_builds_and_runs_nowhere_else(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    nodes = [
        helper.make_node(
            "TRT_MXFP8DequantizeLinear", ["q", "s"], ["w"], domain="trt", axis=0, block_size=32, output_dtype=1
        ),
        node("MatMul", "x w", "y"),
    ]
    weights = [
        numpy_helper.from_array(normal(64, 32).astype(ml_dtypes.float8_e4m3fn), "q"),
        numpy_helper.from_array(np.full((2, 32), 127, np.uint8), "s"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [4, 64]), ("y", [4, 32]))]
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("trt", 1)]
    model = helper.make_model(
        helper.make_graph(nodes, "mxfp8", ends[:1], ends[1:], weights), opset_imports=opsets, ir_version=11
    )
    onnx.save(model, tmp_path / "mxfp8.onnx")
    assert len(rtx_engine(tmp_path / "mxfp8.onnx", "12.0")) > 10_000
    with pytest.raises(GraphError, match="TRT_MXFP8DequantizeLinear"):
        Executor(tmp_path / "mxfp8.onnx")


def test_a_weight_of_zeros() -> None:
    weight = np.zeros((32, 4), np.float32)
    for clip in ("max", "mse"):
        choice = WeightChoice("n", 1, NVFP4, 0, 16, clip)
        assert (weight_scales(weight, choice) > 0).all() and not nearest(weight, choice).astype(np.float32).any()


def test_an_uneven_last_block() -> None:
    weight = normal(10, 3)
    choice = WeightChoice("n", 1, FP8, 0, 4)
    scale = weight_scales(weight, choice)
    assert scale.shape == (3, 3) and spread(scale, choice, weight.shape).shape == (10, 3)
    np.testing.assert_allclose(scale[2], np.abs(weight[8:]).max(axis=0) / 448, rtol=1e-6)
