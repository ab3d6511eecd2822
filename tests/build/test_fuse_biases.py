"""fuse_biases: the same numbers from fewer nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from textnets import net, normal

from edgebig.build.fuse_biases import fuse_biases
from edgebig.build.onnxruntime import optimize_for_cpu

QUANTIZED = """
    q = QuantizeLinear(x, sx, zx)
    d = DequantizeLinear(q, sx, zx)
    v = DequantizeLinear<axis = 1>(w, sw, zw)
    p = MatMul(d, v)
"""


def optimized(tmp_path: Path, body: str, outputs: str = "float[N,4,8] y", **more: np.ndarray) -> Path:
    """The INT8 product as ONNX Runtime fuses it, before and after in one folder."""
    constants = {
        "sx": np.float32(0.02),
        "zx": np.uint8(128),
        "w": np.random.default_rng(0).integers(-127, 128, (16, 8)).astype(np.int8),
        "sw": np.abs(normal(8)) / 100 + np.float32(0.001),
        "zw": np.zeros(8, np.int8),
        **more,
    }
    onnx.save(net("float[N,4,16] x", outputs, QUANTIZED + body, constants, opset=19), tmp_path / "m.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), options, providers=["CPUExecutionProvider"])
    return tmp_path / "fused.onnx"


def operators(path: Path) -> list[str]:
    return [n.op_type for n in onnx.load(path).graph.node]


def run(path: Path) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": normal(3, 4, 16)})


@pytest.mark.parametrize("body", ["y = Add(p, b)", "y = Add(b, p)"])
def test_a_bias_enters_its_product(tmp_path: Path, body: str) -> None:
    path = optimized(tmp_path, body, b=normal(8))
    before = run(path)
    assert operators(path) == ["QuantizeLinear", "MatMulIntegerToFloat", "Add"]
    assert fuse_biases(path) == 1
    assert operators(path) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    np.testing.assert_allclose(run(path)[0], before[0], rtol=0, atol=1e-6)
    assert fuse_biases(path) == 0


@pytest.mark.parametrize(
    ("body", "outputs", "more"),
    [
        ("y = Add(p, b)", "float[N,4,8] y", {"b": normal(4, 8)}),
        ("y = Add(p, b)", "float[N,4,8] y", {"b": normal(1)}),
        ("y = Add(p, p)", "float[N,4,8] y", {}),
        ("y = Add(p, b) z = Relu(p)", "float[N,4,8] y, float[N,4,8] z", {"b": normal(8)}),
        ("y = Add(p, b)", "float[N,4,8] y, float[N,4,8] p", {"b": normal(8)}),
        (
            "part = Slice(x, zero, eight, two) y = Add(p, part)",
            "float[N,4,8] y",
            {"zero": np.int64([0]), "eight": np.int64([8]), "two": np.int64([2])},
        ),
    ],
)
def test_what_is_no_bias_of_one_product_stays(
    tmp_path: Path, body: str, outputs: str, more: dict[str, np.ndarray]
) -> None:
    path = optimized(tmp_path, body, outputs, **more)
    assert "MatMulIntegerToFloat" in operators(path)
    content = path.read_bytes()
    assert fuse_biases(path) == 0
    assert path.read_bytes() == content


def test_the_build_does_it(tmp_path: Path) -> None:
    optimized(tmp_path, "y = Add(p, b)", b=normal(8))
    optimize_for_cpu(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert operators(tmp_path / "out.onnx") == ["QuantizeLinear", "MatMulIntegerToFloat"]


def test_weights_beside_the_graph_stay_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "p = MatMul(d, v) y = Add(p, b)"
    constants = {
        "sx": np.float32(0.02),
        "zx": np.uint8(128),
        "w": np.random.default_rng(0).integers(-127, 128, (16, 256)).astype(np.int8),
        "sw": np.full(256, 0.01, np.float32),
        "zw": np.zeros(256, np.int8),
        "b": normal(256),
    }
    head = QUANTIZED.rpartition("p = MatMul")[0]
    onnx.save(net("float[N,4,16] x", "float[N,4,256] y", head + body, constants, opset=19), tmp_path / "m.onnx")
    optimize_for_cpu(tmp_path / "m.onnx", tmp_path / "inside.onnx")
    monkeypatch.setattr("edgebig.build.onnxruntime._EXTERNAL_ABOVE", 1000)
    optimize_for_cpu(tmp_path / "m.onnx", tmp_path / "beside.onnx")
    assert (tmp_path / "beside.onnx.data").stat().st_size >= 16 * 256
    assert operators(tmp_path / "beside.onnx") == ["QuantizeLinear", "MatMulIntegerToFloat"]
    np.testing.assert_array_equal(run(tmp_path / "beside.onnx"), run(tmp_path / "inside.onnx"))
