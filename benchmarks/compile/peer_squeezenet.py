"""The peer for SqueezeNet: ONNX Runtime's quantize_static on the FP32 file, as its users run it.

    python peer_squeezenet.py FP32.onnx PICTURES OUT.onnx [--defaults]

Tuned: QDQ, unsigned activations and signed weights (what ONNX Runtime recommends for x86 with VNNI), weights
per channel, min-max, every operator that it can, after quant_pre_process. Defaults: every parameter left alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

MEAN_BGR = np.array([104.0, 117.0, 123.0], np.float32)


def prepare(file: Path) -> np.ndarray:
    """float32 [1, 3, 224, 224]: shorter side to 256, the middle 224 x 224, BGR, less the mean."""
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    scale = 256 / min(picture.size)
    width, height = (max(256, int(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - 224) // 2, (height - 224) // 2
    pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32)
    return np.ascontiguousarray((pixels[..., ::-1] - MEAN_BGR).transpose(2, 0, 1)[None])


class Pictures(CalibrationDataReader):  # type: ignore[misc]
    """The pictures of a folder, one a run."""

    def __init__(self, folder: str) -> None:
        self._files = iter(sorted(Path(folder).iterdir()))

    def get_next(self) -> dict[str, np.ndarray] | None:
        file = next(self._files, None)
        return None if file is None else {"data_0": prepare(file)}


def main() -> None:
    """Quantizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "pictures", "out"):
        parser.add_argument(name)
    parser.add_argument("--defaults", action="store_true")
    asked = parser.parse_args()
    reader = Pictures(asked.pictures)
    if asked.defaults:
        quantize_static(asked.model, asked.out, reader)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(asked.model, prepared)
        quantize_static(
            prepared,
            asked.out,
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


if __name__ == "__main__":
    main()
