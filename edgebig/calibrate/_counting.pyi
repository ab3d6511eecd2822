"""Extremes of float32 values and counts of them in the bins of a histogram, without Python's lock."""

from typing import Any

import numpy as np

def extremes(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The smallest and the largest value, ``inf`` and ``-inf`` of none, NaN twice where one is NaN.

    Args:
        values: float32, of any shape, C-contiguous.

    Raises:
        TypeError: another element type.
        BufferError: not contiguous.
    """

def scan(values: np.ndarray[Any, Any], scale: float, counts: np.ndarray[Any, Any]) -> tuple[float, float, bool]:
    """The extremes, and whether every value has a bin; if so, ``counts[floor(value * scale) + HALF]`` grows for each.

    Args:
        values: float32, of any shape, C-contiguous.
        scale: a power of two.
        counts: int64 [2 * HALF]; of no use where a value has no bin.

    Raises:
        TypeError: another element type.
        ValueError: another number of bins.
        BufferError: not contiguous, or ``counts`` cannot be written.
    """
