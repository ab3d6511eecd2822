"""Arrays on the GPU: those that callers bring, used in place, and those that they are given.

Two protocols serve both ways: DLPack (:mod:`edgebig.runtime.gpu.dlpack`) and the CUDA array interface, version 3:
https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from edgebig.errors import InputError
from edgebig.runtime.gpu import dlpack
from edgebig.runtime.gpu.cuda import Cuda, Stream
from edgebig.runtime.gpu.dlpack import Memory

Array = np.ndarray[Any, Any]
Release = Callable[[], None]

_IN_MAIN_MEMORY = (dlpack.CPU, dlpack.CUDA_HOST)


class DeviceArray:
    """An output in the GPU's memory: ``torch.from_dlpack(y)``, ``cupy.asarray(y)`` and the like use it without a copy.

    The work that made it is done. It belongs to the caller: no later run writes into it, and its memory lives as
    long as this array or one made from it.

    Attributes:
        shape: sizes.
        dtype: NumPy's type of its elements.
    """

    def __init__(self, memory: Memory, owner: object, fetch: Callable[[], Array]) -> None:
        """Describes memory.

        Args:
            memory: where it lies.
            owner: keeps the memory as long as it lives.
            fetch: makes a NumPy array of it.
        """
        self.memory, self._owner, self._fetch = memory, owner, fetch
        self.shape, self.dtype = memory.shape, np.dtype(memory.dtype)

    def numpy(self) -> Array:
        """A copy in main memory."""
        return self._fetch()

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; no stream, for the work is done."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.memory.address if self.nbytes else 0, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """The kind of device, and its number."""
        return self.memory.device_type, self.memory.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule, of the layout without a version, which every version of the protocol allows.

        Raises:
            BufferError: a copy was asked for, or another device.
        """
        if copy or (dl_device is not None and tuple(map(int, dl_device)) != self.__dlpack_device__()):
            raise BufferError("this array is handed out as it is: use numpy() for a copy in main memory")
        return dlpack.lend(self.memory, self)

    def __repr__(self) -> str:
        """For people."""
        size = "x".join(map(str, self.shape)) or "scalar"
        return f"<{self.dtype} {size} on GPU {self.memory.device}>"


def take_array(name: str, value: Any, cuda: Cuda, stream: Stream) -> tuple[Array | Memory, Release | None]:
    """What an input is given as: a NumPy array, or memory on the device, ready for work that is queued on ``stream``.

    Args:
        name: the input's.
        value: a NumPy array, or any object with one of the two protocols.
        cuda: the device that must hold it.
        stream: a ``cudaStream_t`` of that device.

    Returns:
        The array or memory, and what to call once the work on it is done.

    Raises:
        InputError: it lies on another device, is not contiguous, has a mask, or cannot be lent; names the input.
        CudaError: waiting for its stream failed.
    """
    if isinstance(value, np.ndarray):
        return value, None
    if isinstance(value, DeviceArray):
        return _on(cuda, name, value.memory), None
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        return _take_dlpack(name, value, cuda, stream)
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        raise InputError(
            f"input {name!r} must be a NumPy array or one on the GPU (DLPack, __cuda_array_interface__), "
            f"found {type(value).__name__}"
        )
    return _on(cuda, name, _take_interface(name, interface, cuda)), None


def _take_dlpack(name: str, value: Any, cuda: Cuda, stream: Stream) -> tuple[Array | Memory, Release | None]:
    kind, number = map(int, value.__dlpack_device__())
    try:
        if kind in _IN_MAIN_MEMORY:
            return np.from_dlpack(value), None
        if kind not in (dlpack.CUDA, dlpack.CUDA_MANAGED):
            raise InputError(f"input {name!r} lies on a device that is no NVIDIA GPU (DLPack's kind {kind}): copy it")
        _on(cuda, name, Memory(0, (), "uint8", kind, number))
        # The producer makes our stream wait for its own: https://dmlc.github.io/dlpack/latest/python_spec.html
        return dlpack.take(value.__dlpack__(stream=int(stream)), name)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:  # torch: a tensor that needs its gradient
        brief = " ".join(str(error).split())[:200]
        raise InputError(f"input {name!r}: the {type(value).__name__} is not lent by DLPack: {brief}") from error


def _take_interface(name: str, interface: dict[str, Any], cuda: Cuda) -> Memory:
    if interface.get("mask") is not None:
        raise InputError(f"input {name!r} has a mask, which engines know nothing of: pass an array without one")
    kind, shape = np.dtype(interface["typestr"]), tuple(int(size) for size in interface["shape"])
    if not kind.isnative or kind.hasobject:
        raise InputError(f"input {name!r} is of the type {interface['typestr']}: convert it first")
    strides = interface.get("strides")
    packed = tuple(step * kind.itemsize for step in dlpack.packed_strides(shape))
    if strides is not None and 0 not in shape:
        pairs = zip(shape, strides, packed, strict=True)
        if not all(size == 1 or found == step for size, found, step in pairs):
            raise dlpack.not_packed(name)
    address = int(interface["data"][0])
    stream = interface.get("stream")
    if stream == 0:
        raise InputError(f"input {name!r} names the stream 0, which the CUDA array interface does not allow")
    if stream is not None:
        cuda.synchronize(stream)
    device = cuda.device_of(address) if prod(shape) else cuda.device
    return Memory(address, shape, kind.name, dlpack.CUDA, device)


def _on(cuda: Cuda, name: str, memory: Memory) -> Memory:
    if memory.device != cuda.device:
        raise InputError(
            f"input {name!r} lies on GPU {memory.device}, the engine runs on GPU {cuda.device}: move it there"
        )
    return memory
