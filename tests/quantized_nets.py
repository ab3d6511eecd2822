"""A small CNN, and what ONNX Runtime's quantizer needs to quantize it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from nets import model, node, normal
from onnxruntime.quantization import CalibrationDataReader

Sample = dict[str, np.ndarray[Any, Any]]
SAMPLES = [{"x": normal(1, 3, 8, 8, seed=seed)} for seed in range(8)]


class Reader(CalibrationDataReader):
    def __init__(self, samples: list[Sample]) -> None:
        self._left = iter(samples)

    def get_next(self) -> Sample | None:
        return next(self._left, None)


def cnn(path: Path) -> Path:
    """Conv, ReLU6, residual Conv, pooling, Concat, a linear head."""
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]),
        node("Clip", "c1 zero six", "r1"),
        node("Conv", "r1 w2 b2", "c2", pads=[1, 1, 1, 1]),
        node("Add", "r1 c2", "sum"),
        node("Relu", "sum", "r2"),
        node("MaxPool", "r2", "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", "pool pool", "both", axis=1),
        node("GlobalAveragePool", "both", "mean"),
        node("Reshape", "mean shape", "flat"),
        node("Gemm", "flat w3 b3", "y"),
    ]
    weights: dict[str, Any] = {"w1": normal(8, 3, 3, 3, scale=2.0), "w2": normal(8, 8, 3, 3, seed=1, scale=0.2)}
    weights |= {"w3": normal(16, 4, seed=2), "shape": np.array([1, 16])}
    weights |= {f"b{i}": normal(n, seed=i) for i, n in ((1, 8), (2, 8), (3, 4))}
    weights |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    onnx.save(model(nodes, {"x": (1, 3, 8, 8)}, ["y"], weights), path)
    return path
