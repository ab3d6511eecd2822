"""The scales of a weight as a plan asks: one function for insertion and for rounding."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from edgebig.quantize.formats import FP8, NVFP4, block_scales, channel_scales
from edgebig.quantize.plan import WeightChoice

Array = np.ndarray[Any, Any]


def weight_scales(weight: Array, choice: WeightChoice) -> Array:
    """Scales, float32: of shape ``[channels]``, one for the whole, or the weight's with blocks along one axis.

    Args:
        weight: float32.
        choice: format, axis, block and clipping.
    """
    if choice.block is not None and choice.axis is not None:
        scale = block_scales(weight, choice.axis, choice.block, choice.format, choice.clip)
        if choice.format == NVFP4:
            whole = tensor_scale(weight)
            return fp8_scales(scale, whole).astype(np.float32) * whole
        return scale
    return channel_scales(weight, choice.axis, choice.format, choice.clip)


def tensor_scale(weight: Array) -> Array:
    """NVFP4's scale of the whole tensor, a float32 scalar: the largest block's own scale becomes FP8's largest."""
    largest = max(float(weight.max(initial=0.0)), -float(weight.min(initial=0.0)))
    return np.array(largest / (NVFP4.high * FP8.high) if largest > 0 else 1.0, np.float32)


def fp8_scales(scale: Array, whole: Array) -> Array:
    """NVFP4's scales of blocks as FP8 parts of the tensor's scale, none of them zero."""
    smallest = 2.0**-9  # FP8 E4M3's smallest subnormal
    return np.clip(scale / whole, smallest, FP8.high).astype(ml_dtypes.float8_e4m3fn)


def spread(scale: Array, choice: WeightChoice, shape: tuple[int, ...]) -> Array:
    """The scales in a shape that broadcasts to the weight's ``shape``."""
    if choice.axis is None:
        return scale
    if choice.block is not None:
        whole = np.repeat(scale, choice.block, axis=choice.axis)
        return whole[tuple(slice(size) for size in shape)]
    return scale.reshape([-1 if i == choice.axis else 1 for i in range(len(shape))])


def nearest(weight: Array, choice: WeightChoice) -> Array:
    """The weight rounded to nearest, in the format's dtype."""
    return choice.format.quantize(weight, spread(weight_scales(weight, choice), choice, weight.shape))
