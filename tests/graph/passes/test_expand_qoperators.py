"""Every quantized operator that ONNX Runtime's quantizer writes, as the float operator that it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import model, node, normal
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from quantized_nets import Reader

from edgebig.graph import Executor, Graph
from edgebig.graph.passes import ExpandQOperators, RemoveQuantization, run_passes
from edgebig.similarity import compare

SAMPLES = [{"x": normal(1, 8, 6, 6, seed=seed)} for seed in range(6)]


def many(path: Path) -> Path:
    """Operators in a row whose quantized forms ONNX Runtime has."""
    nodes = [
        node("AveragePool", "x", "pool", kernel_shape=[3, 3], strides=[1, 1]),
        node("LeakyRelu", "pool", "leaky", alpha=0.2),
        node("Sigmoid", "pool", "gate"),
        node("Mul", "leaky gate", "gated"),
        node("Concat", "gated leaky", "both", axis=1),
        node("Transpose", "both", "moved", perm=[0, 2, 3, 1]),
        node("MatMul", "moved w", "product"),
        node("Add", "product product", "doubled"),
        node("Softmax", "doubled", "soft", axis=-1),
        node("Transpose", "soft", "back", perm=[0, 3, 1, 2]),
        node("GlobalAveragePool", "back", "mean"),
        node("Reshape", "mean shape", "flat"),
        node("Gemm", "flat v b", "y", transB=1),
    ]
    weights: dict[str, Any] = {"w": normal(16, 8, scale=0.5), "v": normal(4, 8, seed=1), "b": normal(4, seed=2)}
    weights |= {"shape": np.array([1, 8])}
    onnx.save(model(nodes, {"x": (1, 8, 6, 6)}, ["y"], weights), path)
    return path


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_each_quantized_operator(kind: QuantType, per_channel: bool, tmp_path: Path) -> None:
    plain, path = many(tmp_path / "plain.onnx"), tmp_path / "int8.onnx"
    quantize_static(
        plain,
        path,
        Reader(SAMPLES),
        quant_format=QuantFormat.QOperator,
        per_channel=per_channel,
        activation_type=kind,
        weight_type=kind,
    )
    before = {n.op_type for n in onnx.load(path).graph.node}
    written = {"QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearConcat"}
    written |= {"QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSoftmax", "QGemm"}
    assert before >= written, written - before
    graph = Graph.load(path)
    unseen = {"x": normal(1, 8, 6, 6, seed=99)}
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, unseen)
    run_passes(graph, [ExpandQOperators()])
    assert not any(n.op_type.startswith("Q") and n.op_type != "QuantizeLinear" for n in graph.nodes())
    with Executor(graph, "off") as executor:  # the same arithmetic, written with Q/DQ pairs
        spelled = executor.run(unseen)["y"]
    assert compare(theirs, spelled).max_relative < 0.02
    run_passes(graph, [RemoveQuantization()])
    assert not any("Quantize" in n.op_type for n in graph.nodes())
    with Executor(graph, "off") as executor, Executor(plain, "off") as exact:
        found, right = executor.run(unseen)["y"], exact.run(unseen)["y"]
    assert compare(right, found).sqnr_db > 25


def test_a_choice_between_quantized_values(tmp_path: Path) -> None:
    """QLinearWhere, which the quantizer of ONNX Runtime 1.32 fails to write."""
    parameters = {"xs": 0.5, "ys": 0.25, "zs": 0.125}
    weights = [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in parameters.items()]
    weights += [numpy_helper.from_array(np.array(v, np.uint8), k) for k, v in {"xz": 3, "yz": 0, "zz": 7}.items()]
    where = ["c", "qx", "xs", "xz", "qy", "ys", "yz", "zs", "zz"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["qx"], name="qx"),
        helper.make_node("QuantizeLinear", ["y", "ys", "yz"], ["qy"], name="qy"),
        helper.make_node("QLinearWhere", where, ["qz"], name="where", domain="com.microsoft"),
        helper.make_node("DequantizeLinear", ["qz", "zs", "zz"], ["z"], name="z"),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("x", "y")]
    inputs.append(helper.make_tensor_value_info("c", TensorProto.BOOL, [4]))
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [4])]
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_graph(nodes, "g", inputs, outputs, weights)
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    feeds = {"x": np.float32([1, 2, 3, 4]), "y": np.float32([5, 6, 7, 8]), "c": np.array([True, False, True, False])}
    (expected,) = ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]).run(None, feeds)
    graph = Graph.load(tmp_path / "m.onnx")
    run_passes(graph, [ExpandQOperators(), RemoveQuantization()])
    with Executor(graph, "off") as executor:
        found = executor.run(feeds)["z"]
    np.testing.assert_array_equal(found, [1, 6, 3, 8])
    np.testing.assert_array_equal(found, expected)
