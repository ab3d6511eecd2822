"""The memory of one input or output of an execution context."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgebig.runtime.gpu.allocator import DeviceBlock
from edgebig.runtime.gpu.buffers import Binding, byte_count, grown, host_view, numpy_dtype
from edgebig.runtime.gpu.cuda import Cuda
from edgebig.runtime.gpu.profiles import Shape

Array = np.ndarray[Any, Any]


class Buffer:
    """Pinned host memory and device memory of one binding; a binding on the host has no device memory.

    Attributes:
        is_own: whether the engine uses the memory here, not the caller's.
        home: where the engine reads or writes it here; ``None`` until room was made for the present shape.
        pointed: the address that the context has.
    """

    def __init__(self, cuda: Cuda, binding: Binding) -> None:
        self._cuda, self.binding = cuda, binding
        dtype = numpy_dtype(binding.dtype)
        assert dtype is not None  # LoadedEngine refuses the others
        self.dtype = dtype
        self.device = DeviceBlock(cuda)
        self.host, self._host_capacity = 0, 0
        self.lent: Array | None = None
        self.shape: Shape = ()
        self.size = 0
        self.is_own = True
        self.home: int | None = None
        self.pointed: int | None = None
        self.allocator: Any = None
        self._view: Array | None = None

    def set_shape(self, shape: Shape) -> None:
        """The shape of the next runs."""
        self.shape, self.size = shape, byte_count(self.binding.dtype, shape)
        self.home = self._view = None

    def lend_host(self, array: Array) -> None:
        """Uses the caller's pinned array in place of host memory of its own."""
        self._free_host()
        self.lent, self.host, self._host_capacity = array, array.ctypes.data, array.nbytes

    def room(self) -> int:
        """The :attr:`home`, after room was made in host memory and on the device."""
        if self.home is not None:
            return self.home
        if self.lent is None:
            capacity = grown(self._host_capacity, max(self.size, 1))
            if capacity != self._host_capacity:
                self._free_host()
                self.host = self._cuda.host_alloc(capacity)
                self._host_capacity = capacity
        self.home = self.host if self.binding.on_host else self.device.reserve(self.size)
        return self.home

    def view(self) -> Array:
        """The pinned memory as an array."""
        if self._view is None:
            self._view = host_view(self.host, self.dtype, self.shape)
        return self._view

    def free(self) -> None:
        """Frees both memories."""
        self.device.free()
        self._free_host()

    def _free_host(self) -> None:
        address, self.host, self._host_capacity = self.host, 0, 0
        if address and self.lent is None:
            self._cuda.quietly(self._cuda.host_free, address)
        self.lent = self.home = self._view = None
