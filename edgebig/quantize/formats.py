"""Number formats: scale and zero point from a range, and weights in that format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from edgebig.calibrate.ranges import Range

Array = np.ndarray[Any, Any]
ScaleMethod = Literal["max", "mse"]
_TINY = float(np.finfo(np.float32).tiny)
_DEAD = 1e-20
"""Weights below it are what training leaves of a dead channel: they become zeros."""

_AT_ONCE = 1 << 21
"""Elements of a weight whose scales are sought together; a few float32 copies of them are alive."""

RATIOS = np.linspace(1.0, 0.5, 26, dtype=np.float32)
"""Of the max-abs scale, that the search for the least squared error tries."""


@dataclass(frozen=True)
class Format:
    """A quantized number format.

    Attributes:
        name: for reports.
        dtype: ONNX element type of the quantized values.
        low, high: smallest and largest value used.
        symmetric: the zero point is 0 and ``low == -high``.
    """

    name: str
    dtype: ir.DataType
    low: float
    high: float
    symmetric: bool

    def scale_and_zero_point(self, value_range: Range) -> tuple[float, int]:
        """Affine parameters for a range, which is widened to hold 0 (so that padding is exact).

        ``real = scale * (quantized - zero_point)``, Jacob et al. 2018, "Quantization and Training of
        Neural Networks for Efficient Integer-Arithmetic-Only Inference", section 2.1.
        """
        low, high = min(value_range.min, 0.0), max(value_range.max, 0.0)
        if self.symmetric:
            return max(max(-low, high) / self.high, _TINY), 0
        scale = max((high - low) / (self.high - self.low), _TINY)
        return scale, int(np.clip(round(self.low - low / scale), self.low, self.high))

    def quantize(self, values: Array, scale: Array) -> Array:
        """Symmetric quantization, round half to even as ONNX asks; ``scale`` must broadcast."""
        scaled = values / scale
        if self.dtype.is_floating_point():
            return np.clip(scaled, self.low, self.high).astype(self.dtype.numpy())
        return np.clip(np.rint(scaled), self.low, self.high).astype(self.dtype.numpy())


INT8 = Format("int8", ir.DataType.INT8, -127, 127, symmetric=True)
INT7 = Format("int8 in 7 bits", ir.DataType.INT8, -64, 64, symmetric=True)
UINT8 = Format("uint8", ir.DataType.UINT8, 0, 255, symmetric=False)
FP8 = Format("fp8 e4m3", ir.DataType.FLOAT8E4M3FN, -448, 448, symmetric=True)
INT4 = Format("int4", ir.DataType.INT4, -7, 7, symmetric=True)
NVFP4 = Format("nvfp4", ir.DataType.FLOAT4E2M1, -6, 6, symmetric=True)
"""Weights alone, in blocks of 16 whose scales are FP8 times one float for the tensor (NVIDIA TensorRT documentation,
"Working with Quantized Types", section "FP4")."""

NVFP4_BLOCK = 16
NVFP4_OPSET = 23
"""ONNX's first opset with FLOAT4E2M1."""


def refusal(name: str, capability: str | None) -> str | None:
    """Why a block format is not to be had, tried with onnx 1.23 and TensorRT-RTX 1.7.1; ``None`` where it is.

    Args:
        name: ``nvfp4``, ``mxfp8`` or any other format.
        capability: of the target's GPU, as ``8.9``; ``None`` for a CPU.
    """
    if name == "mxfp8":
        return (
            "MXFP8: ONNX has its FLOAT8E8M0 scales since opset 24, but TensorRT-RTX's parser takes no such constant, "
            "only an operator of its own that no other runtime can check"
        )
    if name != "nvfp4":
        return None
    if capability is None:
        return "NVFP4: ONNX Runtime has no CPU kernel that dequantizes FLOAT4E2M1"
    if float(capability) < 10:
        return f"NVFP4 needs compute capability 10.0 or newer: the builder refuses FLOAT4E2M1 for {capability}"
    return None


def channel_scales(weight: Array, axis: int | None, fmt: Format, method: ScaleMethod = "max") -> Array:
    """Scales, float32: one for each index of ``axis`` (``None``: one for the whole tensor).

    A dead channel gets the scale 1, since a scale must be positive.

    Args:
        weight: float32, any shape.
        axis: of the output channels.
        fmt: a symmetric format.
        method: ``max`` maps the largest magnitude to the format's; ``mse`` tries that scale times 1, 0.98 …
            0.5 and takes the one with the least squared error, as in Banner et al. 2019, "Post training
            4-bit quantization of convolutional networks for rapid-deployment", but by search.
    """
    if axis is None:
        scale: Array = _row_scales(weight.reshape(1, -1), fmt, method)[0]
        return scale
    rows = np.moveaxis(weight, axis, 0)
    scales = np.empty(len(rows), np.float32)
    for part in _slices(len(rows), weight.size):
        scales[part] = _row_scales(rows[part].reshape(rows[part].shape[0], -1), fmt, method)
    return scales


def block_scales(weight: Array, axis: int, block: int, fmt: Format, method: ScaleMethod = "max") -> Array:
    """The same for blocks of ``block`` consecutive elements along ``axis``; the last may be shorter."""
    moved = np.moveaxis(weight, axis, -1)
    length = moved.shape[-1]
    rows = moved.reshape(-1, length)
    count = -(-length // block)
    scales = np.empty((len(rows), count), np.float32)
    for part in _slices(len(rows), weight.size):
        # zeros at the end of the last block change neither its largest magnitude nor its error
        padded = np.zeros((len(rows[part]), count * block), weight.dtype)
        padded[:, :length] = rows[part]
        scales[part] = _row_scales(padded.reshape(-1, block), fmt, method).reshape(-1, count)
    return np.ascontiguousarray(np.moveaxis(scales.reshape(*moved.shape[:-1], count), -1, axis))


def _slices(count: int, size: int) -> Iterator[slice]:
    """Slices of ``count`` rows that hold ``size`` elements together, each of at most ``_AT_ONCE`` elements."""
    step = max(1, _AT_ONCE * count // max(size, 1))
    for start in range(0, count, step):
        yield slice(start, start + step)


def _row_scales(rows: Array, fmt: Format, method: ScaleMethod) -> Array:
    largest = np.abs(rows).max(axis=1, initial=0.0).astype(np.float32)
    full = np.where(largest > _DEAD, largest / np.float32(fmt.high), np.float32(1)).astype(np.float32)
    if method == "max":
        return full
    best, least = full, np.full(len(rows), np.inf, np.float32)
    for ratio in RATIOS:
        scale = full * ratio
        restored = fmt.quantize(rows, scale[:, None]).astype(np.float32) * scale[:, None]
        error = np.square(rows - restored).sum(axis=1)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best
