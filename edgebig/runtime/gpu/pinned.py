"""Page-locked arrays, which a GPU reads and writes without the processor's help."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np

from edgebig.runtime.gpu.cuda import Cuda

Array = np.ndarray[Any, Any]


class _Pinned:
    """Page-locked memory, freed with the last array over it."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda = cuda
        self.address = cuda.host_alloc(max(size, 1))
        self.__array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (self.address, False),
            "version": 3,
        }

    def __del__(self) -> None:
        address, self.address = getattr(self, "address", 0), 0
        if address:
            self._cuda.quietly(self._cuda.host_free, address)


def pinned_zeros(cuda: Cuda, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros in page-locked memory.

    Raises:
        CudaError: the system has no such memory left.
    """
    size = prod(shape) * dtype.itemsize
    pinned = _Pinned(cuda, size)
    ctypes.memset(pinned.address, 0, max(size, 1))
    return np.asarray(pinned).view(dtype).reshape(shape)
