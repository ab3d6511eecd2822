"""Device memory that leaves a backend: outputs that the caller keeps on the GPU. It is used again later."""

from __future__ import annotations

from threading import Lock

from edgebig.runtime.gpu.buffers import aligned
from edgebig.runtime.gpu.cuda import Cuda

_KEPT = 16


class Blocks:
    """Blocks of a device's memory, those that came back last first. They outlive their backend."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._free: list[tuple[int, int]] = []
        self._closed = False
        self._lock = Lock()

    def take(self, size: int) -> Block:
        """A block of ``size`` bytes at least that nobody uses.

        Raises:
            CudaError: the device lacks the memory.
        """
        needed = aligned(size)
        with self._lock:
            place = next((p for p in reversed(range(len(self._free))) if self._free[p][1] == needed), None)
            found = None if place is None else self._free.pop(place)
        if found is None:
            return Block(self, self._cuda.malloc(needed), needed)
        # Whoever had it may have queued work on a stream of his own that still reads it.
        self._cuda.synchronize_device()
        return Block(self, *found)

    def adopt(self, address: int, capacity: int) -> Block:
        """A block of memory that was allocated elsewhere."""
        return Block(self, address, capacity)

    def back(self, address: int, capacity: int) -> None:
        """Takes memory back."""
        with self._lock:
            if not self._closed and len(self._free) < _KEPT:
                self._free.append((address, capacity))
                return
        self._release([address])

    def close(self) -> None:
        """Frees what is here; what is outside, when it comes back."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        self._release([address for address, _ in free])

    def _release(self, addresses: list[int]) -> None:
        if addresses:
            before = self._cuda.enter()
            for address in addresses:
                self._cuda.quietly(self._cuda.free, address)
            self._cuda.leave(before)


class Block:
    """Memory that goes back where it came from when the last array over it is gone."""

    __slots__ = ("_blocks", "address", "capacity")

    def __init__(self, blocks: Blocks, address: int, capacity: int) -> None:
        self._blocks, self.address, self.capacity = blocks, address, capacity

    def __del__(self) -> None:
        self._blocks.back(self.address, self.capacity)
