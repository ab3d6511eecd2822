"""A peer's side for pictures, in the environment of the peer: python vision_peer.py HOW MODEL.onnx SAMPLES.npz OUT.onnx

HOW is one of:
    ort-min-max, ort-percentile, ort-entropy    ONNX Runtime's quant_pre_process and quantize_static: QDQ, unsigned
        activations, signed weights per channel, every operator that it can, that calibration method
    ort-symmetric-min-max, ort-symmetric-percentile, ort-symmetric-entropy    the same, activations signed and symmetric
    nncf, nncf-symmetric    nncf.quantize, preset MIXED or PERFORMANCE (symmetric activations); its fast bias
        correction, since the other one fails on these models

The samples are those of benchmarks/calibration/samples.py, all of them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.calibration.samples import Sample, read


def onnx_runtime(model: Path, samples: list[Sample], out: Path, method: str, *, is_symmetric: bool) -> None:
    """quantize_static."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples = iter(samples)

        def get_next(self) -> Sample | None:
            return next(self._samples, None)

    methods = {
        "min-max": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        try:
            quant_pre_process(str(model), prepared)
        except TypeError:  # its symbolic shape inference fails on TwinLiteNet's Expand; ONNX's own is enough
            quant_pre_process(str(model), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if is_symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[method],
            extra_options={"ActivationSymmetric": is_symmetric, "WeightSymmetric": True},
        )


def nncf(model: Path, samples: list[Sample], out: Path, *, is_symmetric: bool) -> None:
    """NNCF's quantization after training."""
    import nncf as package
    import onnx

    # it asks for the shapes of inner values
    loaded = onnx.shape_inference.infer_shapes(onnx.load(model))
    presets = package.QuantizationPreset
    quantized = package.quantize(
        loaded,
        package.Dataset(samples),
        subset_size=len(samples),
        preset=presets.PERFORMANCE if is_symmetric else presets.MIXED,
    )
    onnx.save(quantized, out)


def main() -> None:
    """Quantizes."""
    how, model, data, out = sys.argv[1:]
    with np.load(data) as file:
        count = len({key.split("/", 1)[0] for key in file.files})
    samples = list(read(Path(data), count))
    is_symmetric = "symmetric" in how
    if how.startswith("nncf"):
        nncf(Path(model), samples, Path(out), is_symmetric=is_symmetric)
    else:
        method = how.removeprefix("ort-").removeprefix("symmetric-")
        onnx_runtime(Path(model), samples, Path(out), method, is_symmetric=is_symmetric)


if __name__ == "__main__":
    main()
