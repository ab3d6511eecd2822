"""Number formats: scale and zero point from a range, and weights in that format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from edgebig.calibrate.ranges import Range

Array = np.ndarray[Any, Any]
_TINY = float(np.finfo(np.float32).tiny)
_DEAD = 1e-20
"""Weights below it are what training leaves of a dead channel: they become zeros."""


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
        if self.dtype == ir.DataType.FLOAT8E4M3FN:
            return np.clip(scaled, self.low, self.high).astype(ml_dtypes.float8_e4m3fn)
        return np.clip(np.rint(scaled), self.low, self.high).astype(self.dtype.numpy())


INT8 = Format("int8", ir.DataType.INT8, -127, 127, symmetric=True)
INT7 = Format("int8 in 7 bits", ir.DataType.INT8, -64, 64, symmetric=True)
UINT8 = Format("uint8", ir.DataType.UINT8, 0, 255, symmetric=False)
FP8 = Format("fp8 e4m3", ir.DataType.FLOAT8E4M3FN, -448, 448, symmetric=True)
INT4 = Format("int4", ir.DataType.INT4, -7, 7, symmetric=True)


def channel_scales(weight: Array, axis: int | None, fmt: Format) -> Array:
    """Max-abs scales, float32: one for each index of ``axis`` (``None``: one for the whole tensor).

    A dead channel gets the scale 1, since a scale must be positive.
    """
    axes = tuple(i for i in range(weight.ndim) if i != axis) if axis is not None else None
    largest = np.abs(weight).max(axis=axes, initial=0.0).astype(np.float32)
    return _positive(largest, fmt)


def block_scales(weight: Array, axis: int, block: int, fmt: Format) -> Array:
    """Max-abs scales of blocks of ``block`` consecutive elements along ``axis``; the last may be shorter."""
    starts = np.arange(0, weight.shape[axis], block)
    largest = np.maximum.reduceat(np.abs(weight), starts, axis=axis).astype(np.float32)
    return _positive(largest, fmt)


def _positive(largest: Array, fmt: Format) -> Array:
    return np.where(largest > _DEAD, largest / np.float32(fmt.high), np.float32(1)).astype(np.float32)
