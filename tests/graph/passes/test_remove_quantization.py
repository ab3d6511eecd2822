"""Models that ONNX Runtime quantized become float graphs with the same values, and keep their ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import model, node, normal
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.calibrate import CalibrationMethod
from quantized_nets import SAMPLES, Reader, cnn

from edgebig.errors import GraphError
from edgebig.graph import Executor, Graph
from edgebig.graph.passes import ExpandQOperators, RemoveQuantization, is_for_tensorrt, is_quantized, run_passes
from edgebig.similarity import compare

Sample = dict[str, np.ndarray[Any, Any]]
FLOAT_OPS = {"Conv", "Clip", "Relu", "Add", "MaxPool", "Concat", "GlobalAveragePool", "Reshape", "Gemm", "Identity"}


def answers(model: Path, samples: list[Sample]) -> list[Any]:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return [session.run(None, s)[0] for s in samples]


def floated(path: Path) -> tuple[Graph, RemoveQuantization]:
    graph, removal = Graph.load(path), RemoveQuantization()
    run_passes(graph, [ExpandQOperators(), removal])
    return graph, removal


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8])
def test_onnx_runtimes_static_int8(form: QuantFormat, per_channel: bool, weights: QuantType, tmp_path: Path) -> None:
    plain, path = cnn(tmp_path / "plain.onnx"), tmp_path / "int8.onnx"
    # both types are the same: ONNX Runtime's quantizer refuses signed activations with unsigned weights
    kinds = {"weight_type": weights, "activation_type": weights}
    quantize_static(plain, path, Reader(SAMPLES), quant_format=form, per_channel=per_channel, **kinds)
    graph, removal = floated(path)
    assert is_quantized(Graph.load(path)) and not is_for_tensorrt(Graph.load(path))
    assert {n.op_type for n in graph.nodes()} <= FLOAT_OPS and not graph.model.opset_imports.get("com.microsoft")
    unseen = [{"x": normal(1, 3, 8, 8, seed=100 + seed)} for seed in range(4)]
    with Executor(graph, "off") as executor:
        found = [executor.run(s)["y"] for s in unseen]
    for mine, theirs, exact in zip(found, answers(path, unseen), answers(plain, unseen), strict=True):
        # the weights' rounding stays, that of activations goes
        assert min(compare(exact, mine).sqnr_db, compare(theirs, mine).sqnr_db) > 25
    # the quantizer took ReLU6 away: its saturation did the same
    clipped = [name for name, (low, high) in removal.ranges.items() if low == 0 and abs(high - 6) < 0.05]
    assert clipped, removal.ranges
    assert any(n.op_type == "Clip" for n in graph.nodes())


def test_a_symmetric_range_gives_the_same_scale_again(tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    quantize_static(
        cnn(tmp_path / "plain.onnx"),
        path,
        Reader(SAMPLES),
        activation_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True},
        calibrate_method=CalibrationMethod.MinMax,
    )
    quantized = onnx.load(path)
    scales = {
        i.name: float(numpy_helper.to_array(i).reshape(-1)[0]) for i in quantized.graph.initializer if i.dims == []
    }
    _, removal = floated(path)
    low, high = removal.ranges["x"]
    assert low == -high and high / 127 == pytest.approx(scales["x_scale"], rel=1e-6)


def test_dynamic_int8_multiplies_the_same_weights(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.onnx", tmp_path / "dynamic.onnx"
    nodes = [node("MatMul", "x a", "h"), node("Add", "h b", "s"), node("Relu", "s", "r"), node("MatMul", "r c", "y")]
    weights = {"a": normal(16, 32), "b": normal(32, seed=1), "c": normal(32, 8, seed=2)}
    onnx.save(model(nodes, {"x": ("n", 16)}, ["y"], weights), plain)
    for per_channel in (False, True):
        quantize_dynamic(plain, path, per_channel=per_channel)
        graph, removal = floated(path)
        assert [n.op_type for n in graph.nodes()] == ["MatMul", "Add", "Relu", "MatMul"] and removal.ranges == {}
        feeds = {"x": normal(4, 16, seed=5)}
        with Executor(graph, "off") as executor:
            found = executor.run(feeds)["y"]
        (theirs,), (exact,) = answers(path, [feeds]), answers(plain, [feeds])
        assert compare(theirs, found).cosine > 0.999 and compare(exact, found).cosine > 0.999
        stored = [v.const_value.numpy() for v in graph.model.graph.initializers.values() if v.const_value is not None]
        (first,) = [w for w in stored if w.shape == (16, 32)]
        assert abs(first - weights["a"]).max() <= abs(weights["a"]).max() / 127


def test_what_moves_values_that_were_quantized_at_run_time(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.onnx", tmp_path / "dynamic.onnx"
    nodes = [
        node("MatMul", "x a", "h"),
        node("Transpose", "x", "t", perm=[1, 0]),
        node("MatMul", "t b", "s"),
        node("ReduceSum", "t", "r"),
        node("Concat", "h s", "y", axis=0),
    ]
    onnx.save(model(nodes, {"x": (6, 4)}, ["y", "r"], {"a": normal(4, 8), "b": normal(6, 8, seed=1)}), plain)
    quantize_dynamic(plain, path, op_types_to_quantize=["MatMul", "Transpose"])
    before = [n.op_type for n in onnx.load(path).graph.node]
    assert {"DynamicQuantizeLinear", "DequantizeLinear", "MatMulInteger"} <= set(before), before
    graph, _ = floated(path)
    assert sorted(n.op_type for n in graph.nodes()) == ["Concat", "MatMul", "MatMul", "ReduceSum", "Transpose"]
    feeds = {"x": normal(6, 4, seed=5)}
    with Executor(graph, "off") as executor, Executor(plain, "off") as exact:
        found, right = executor.run(feeds), exact.run(feeds)
    np.testing.assert_allclose(found["r"], right["r"], rtol=1e-5)
    assert compare(right["y"], found["y"]).cosine > 0.999


def pair(zero: int, kind: int, dtype: Any, table: bool = False) -> onnx.ModelProto:
    """``x`` quantized, dequantized; or rows of a quantized table."""
    weights = [numpy_helper.from_array(np.array(0.5, np.float32), "s"), numpy_helper.from_array(dtype(zero), "z")]
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q")]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    if table:
        weights.append(numpy_helper.from_array(np.arange(6, dtype=dtype).reshape(2, 3), "t"))
        nodes = [
            helper.make_node("Gather", ["t", "x"], ["rows"], name="rows"),
            helper.make_node("Transpose", ["rows"], ["q"], name="moved", perm=[1, 0]),
        ]
        given = helper.make_tensor_value_info("x", TensorProto.INT64, [4])
    nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="dq"))
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4] if table else [2, 3])
    graph = helper.make_graph(nodes, "g", [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_an_embeddings_rows_are_dequantized_before_they_are_taken(tmp_path: Path) -> None:
    onnx.save(pair(2, TensorProto.UINT8, np.uint8, table=True), tmp_path / "m.onnx")
    graph, _ = floated(tmp_path / "m.onnx")
    with Executor(graph, "off") as executor:
        found = executor.run({"x": np.array([1, 0, 1, 1])})["y"]
    np.testing.assert_array_equal(found.T[:2], (np.arange(6).reshape(2, 3)[[1, 0]] - 2) * np.float32(0.5))


@pytest.mark.parametrize(("zero", "dtype", "expected"), [(0, np.int8, True), (3, np.int8, False), (0, np.uint8, False)])
def test_what_tensorrt_takes_as_it_is(zero: int, dtype: Any, expected: bool, tmp_path: Path) -> None:
    onnx.save(pair(zero, 0, dtype), tmp_path / "m.onnx")
    assert is_for_tensorrt(Graph.load(tmp_path / "m.onnx")) is expected


def test_what_only_onnx_runtime_computes_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], name="fused", domain="com.microsoft")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.ones((4, 4), np.int8), "w"), numpy_helper.from_array(np.float32([1]), "s")],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(GraphError, match="fused is a DynamicQuantizeMatMul, .* before it was quantized"):
        floated(tmp_path / "m.onnx")
