"""Models that came quantized, through the whole flow: made for another runtime, or for TensorRT already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
from quantized_nets import SAMPLES, Reader, cnn

pytest.importorskip("tensorrt_rtx_bindings")

import edgebig
from edgebig.errors import CalibrationError
from edgebig.graph import Graph
from edgebig.quantize import PlanFile
from edgebig.verify import outputs_of

FORMS = [QuantFormat.QDQ, QuantFormat.QOperator]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return cnn(tmp_path / "plain.onnx")


def ops(bundle: edgebig.Bundle) -> list[str]:
    return [node.op_type for node in Graph.load(bundle.file(bundle.part().graph)).nodes()]


@pytest.mark.parametrize("form", FORMS)
def test_onnx_runtimes_int8_is_quantized_anew_by_its_own_scales(form: QuantFormat, plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    quantize_static(plain, path, Reader(SAMPLES), quant_format=form)
    bundle = edgebig.compile(path, target="l4", precision="int8", out=tmp_path / "b")
    part = bundle.part()
    assert part.quantized and (tmp_path / "b" / part.engines[0].path).stat().st_size > 1000
    plan = PlanFile.load(tmp_path / "b" / "evidence" / "model.plan.json")
    formats = plan.formats()
    assert len(formats) == 3 and set(formats.values()) == {"int8"}
    (given,) = [v for v in onnx.load(path).graph.initializer if v.name == "x_scale"]
    scale = onnx.numpy_helper.to_array(given).item()
    # the original's range is one-sided or not symmetric: the new one holds it, and is at most twice as wide
    assert scale * 0.99 <= plan.activations["x"]["scale"] <= scale * 2.01
    said = [line for stage in bundle.manifest.stages for line in stage.notes]
    assert any("are those that the model came with" in line for line in said)
    found = outputs_of(bundle.file(part.graph), SAMPLES, "off")
    exact = outputs_of(plain, SAMPLES, "off")
    for mine, right in zip(found, exact, strict=True):
        assert abs(mine["y"] - right["y"]).max() < 0.05 * abs(right["y"]).max()


@pytest.mark.parametrize("form", FORMS)
def test_onnx_runtimes_int8_in_other_precisions(form: QuantFormat, plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    quantize_static(plain, path, Reader(SAMPLES), quant_format=form)
    half = edgebig.compile(path, target="l4", precision="fp16", out=tmp_path / "half")
    assert "QuantizeLinear" not in ops(half) and half.part().engines
    declined = [line for stage in half.manifest.stages for line in stage.declined]
    assert any("--precision int8 quantizes it anew, by its own scales" in line for line in declined)
    eighth = edgebig.compile(path, target="l4", precision="fp8", out=tmp_path / "eighth")
    assert "float8e4m3fn" in eighth.part().precision and eighth.part().engines
    # ONNX Runtime runs its own operators
    as_it_is = edgebig.compile(path, target="cpu", out=tmp_path / "cpu")
    assert {"QLinearConv", "QuantizeLinear"} & set(ops(as_it_is))


def test_dynamic_int8_needs_samples(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    quantize_dynamic(plain, path, op_types_to_quantize=["MatMul", "Gemm"])
    with pytest.raises(CalibrationError, match="give --calib"):
        edgebig.compile(path, target="l4", precision="int8", out=tmp_path / "b")
    bundle = edgebig.compile(path, target="l4", precision="int8", calibration=SAMPLES, out=tmp_path / "b")
    assert bundle.part().quantized and "MatMulInteger" not in ops(bundle)


def symmetric_int8(plain: Path, path: Path) -> Path:
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    quantize_static(plain, path, Reader(SAMPLES), activation_type=QuantType.QInt8, extra_options=options)
    return path


def test_what_tensorrt_takes_is_left_as_it_came(plain: Path, tmp_path: Path) -> None:
    path = symmetric_int8(plain, tmp_path / "int8.onnx")
    before = [(n.op_type, n.name) for n in Graph.load(path).nodes()]
    bundle = edgebig.compile(path, target="l4", out=tmp_path / "b")
    part = bundle.part()
    assert [(n.op_type, n.name) for n in Graph.load(bundle.file(part.graph)).nodes()] == before
    assert part.quantized and part.engines and part.similarity["y"]["max_abs"] == 0
    stages = {stage.name: stage.notes for stage in bundle.manifest.stages}
    assert "model: came quantized as TensorRT takes it, and stays as it is" in stages["graph"]
    assert any("against original" in line for line in stages["verify"])  # made while the engine was built
    # ONNX Runtime's fused integer operators round elsewhere, which is no loss of an export
    here = edgebig.compile(path, target="cpu", out=tmp_path / "cpu").part()
    assert here.quantized and here.similarity["y"]["cosine"] > 0.999


def test_in_fp16_what_is_not_quantized_becomes_half(plain: Path, tmp_path: Path) -> None:
    path = symmetric_int8(plain, tmp_path / "int8.onnx")
    part = edgebig.compile(path, target="l4", precision="fp16", out=tmp_path / "b").part()
    # Q/DQ pairs of FP16 tensors exist since opset 19
    assert part.opset >= 19 and part.engines and {"int8", "float16"} <= set(part.precision)
    assert part.similarity["y"]["cosine"] > 0.999


def test_what_the_builder_refuses_as_it_came_is_simplified(plain: Path, tmp_path: Path) -> None:
    """TensorRT-RTX has no Compress; this one reads constants, and is one when it is folded."""
    proto = onnx.load(symmetric_int8(plain, tmp_path / "int8.onnx"))
    for name, value in (("kept", np.array([True, False, True])), ("pool_of", np.array([1, 7, 16]))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    (reshape,) = [n for n in proto.graph.node if n.op_type == "Reshape"]
    compress = onnx.helper.make_node("Compress", ["pool_of", "kept"], ["chosen"], name="chosen")
    proto.graph.node.insert(list(proto.graph.node).index(reshape), compress)
    reshape.input[1] = "chosen"
    onnx.save(proto, tmp_path / "odd.onnx")
    bundle = edgebig.compile(tmp_path / "odd.onnx", target="l4", out=tmp_path / "b")
    declined = [line for stage in bundle.manifest.stages for line in stage.declined]
    assert any("simplified after all" in line and "Compress" in line for line in declined)
    assert "Compress" not in ops(bundle) and bundle.part().engines
    assert bundle.part().similarity["y"]["cosine"] == pytest.approx(1)


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_dynamic_convolutions_become_float_convolutions(kind: QuantType, plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    quantize_dynamic(plain, path, op_types_to_quantize=["Conv"], weight_type=kind)
    try:
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime 1.23 multiplies by unsigned weights alone
        if kind == QuantType.QUInt8 or "ConvInteger" not in str(error):
            raise
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} does not run what it made: {error}")
    bundle = edgebig.compile(path, target="l4", precision="fp16", out=tmp_path / "b")
    assert "ConvInteger" in {n.op_type for n in onnx.load(path).graph.node} and ops(bundle).count("Conv") == 2
    found, exact = outputs_of(bundle.file(bundle.part().graph), SAMPLES, "off"), outputs_of(plain, SAMPLES, "off")
    for mine, right in zip(found, exact, strict=True):
        assert abs(mine["y"] - right["y"]).max() < 0.02 * abs(right["y"]).max()
