"""A peer's side, in the environment of the peer: python peer.py HOW MODEL.onnx SAMPLES.npz OUT.onnx SAMPLES

HOW is one of:
    ort-symmetric    ONNX Runtime's quantize_static as for TensorRT: S8S8, symmetric, weights per channel, only the
                     products with weights (its option MatMulConstBOnly has no effect on QDQ, so they are named)
    nncf             nncf.quantize, model type transformer (SmoothQuant among it), its preset for transformers
    nncf-symmetric   the same with the preset PERFORMANCE: symmetric activations
    modelopt-int8, modelopt-fp8     modelopt.onnx.quantization.quantize, max calibration, the rest in FP32

The samples are those of benchmarks/calibration/samples.py, padded to one length.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.calibration.samples import Sample, read


def ort_symmetric(model: Path, samples: list[Sample], out: Path) -> None:
    """As benchmarks/compile/peer_minilm.py, but signed and symmetric, without Gather and attention's products."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples = iter(samples)

        def get_next(self) -> Sample | None:
            return next(self._samples, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(str(model), prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        weights = {w.name for w in graph.initializer}
        computed = [n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] not in weights]
        quantize_static(
            prepared,
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=computed,
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
            },
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )


def nncf(model: Path, samples: list[Sample], out: Path, *, is_symmetric: bool = False) -> None:
    """NNCF's quantization after training, all of the samples."""
    import nncf as package
    import onnx

    preset = {"preset": package.QuantizationPreset.PERFORMANCE} if is_symmetric else {}
    data = package.Dataset(samples)
    kind = package.ModelType.TRANSFORMER
    onnx.save(package.quantize(onnx.load(model), data, subset_size=len(samples), model_type=kind, **preset), out)


def modelopt(model: Path, samples: list[Sample], out: Path, mode: str) -> None:
    """ModelOpt for ONNX, on the CPU provider."""
    from modelopt.onnx.quantization import quantize

    together = {name: np.concatenate([s[name] for s in samples]) for name in samples[0]}
    quantize(
        str(model),
        quantize_mode=mode,
        calibration_data=together,
        calibration_method="max",
        calibration_eps=["cpu"],
        op_types_to_quantize=["MatMul"],
        high_precision_dtype="fp32",
        output_path=str(out),
        log_level="ERROR",
    )


WAYS: dict[str, Callable[[Path, list[Sample], Path], None]] = {
    "ort-symmetric": ort_symmetric,
    "nncf": nncf,
    "nncf-symmetric": lambda model, samples, out: nncf(model, samples, out, is_symmetric=True),
    "modelopt-int8": lambda model, samples, out: modelopt(model, samples, out, "int8"),
    "modelopt-fp8": lambda model, samples, out: modelopt(model, samples, out, "fp8"),
}


def main() -> None:
    """Quantizes."""
    how, model, data, out, count = sys.argv[1:]
    WAYS[how](Path(model), list(read(Path(data), int(count))), Path(out))


if __name__ == "__main__":
    main()
