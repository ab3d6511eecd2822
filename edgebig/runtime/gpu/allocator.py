"""Memory for outputs whose size an engine knows only after it has computed them (NonZero, NMS)."""

from __future__ import annotations

from typing import Any

from edgebig.errors import BackendError
from edgebig.runtime.gpu.buffers import grown
from edgebig.runtime.gpu.cuda import Cuda


class DeviceBlock:
    """Device memory that grows, and the shape that the engine wrote into it last."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.address, self.capacity = 0, 0
        self.shape: tuple[int, ...] | None = None
        self.failure: BackendError | None = None

    def reserve(self, size: int) -> int:
        """The address of ``size`` bytes at least; what was there before is lost where it has to grow.

        Raises:
            CudaError: the device lacks the memory.
        """
        capacity = grown(self.capacity, max(size, 1))
        if capacity != self.capacity:
            self.free()
            self.address = self._cuda.malloc(capacity)
            self.capacity = capacity
        return self.address

    def give_away(self) -> tuple[int, int]:
        """Address and capacity of the memory, which is the caller's from now on; the next run gets a new one."""
        size = self.reserve(1), self.capacity
        self.address, self.capacity = 0, 0
        return size

    def free(self) -> None:
        """Frees the memory, if there is some."""
        if self.address:
            address, self.address, self.capacity = self.address, 0, 0
            self._cuda.quietly(self._cuda.free, address)


def output_allocator(tensorrt: Any, block: DeviceBlock) -> Any:
    """An ``IOutputAllocator`` that lets the engine write into the block.

    TensorRT calls it while it runs the engine. Nothing may be raised through its C++ code: the block keeps the error
    as its ``failure``, and address 0 makes TensorRT give up.
    """

    class Allocator(tensorrt.IOutputAllocator):  # type: ignore[misc]  # the class is known at run time
        def __init__(self) -> None:
            tensorrt.IOutputAllocator.__init__(self)

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            try:
                return block.reserve(size)
            except BackendError as error:
                block.failure = error
                return 0

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            block.shape = tuple(int(axis) for axis in shape)

    return Allocator()
