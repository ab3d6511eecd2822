"""Counts float32 values in the bins of a histogram, without Python's lock."""

from typing import Any

import numpy as np

def count(values: np.ndarray[Any, Any], scale: float, counts: np.ndarray[Any, Any]) -> None:
    """Adds one to ``counts[floor(value * scale) + HALF]`` for each value.

    Args:
        values: float32, of any shape, C-contiguous, all finite; those outside of the bins land in wrong ones.
        scale: a power of two.
        counts: int64 [2 * HALF].

    Raises:
        TypeError: another element type.
        ValueError: another number of bins.
        BufferError: not contiguous, or ``counts`` cannot be written.
    """
