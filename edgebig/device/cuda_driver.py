"""Asks NVIDIA's driver of the GPU, through ``libcuda`` alone: it is there wherever a GPU can run anything."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18
"""CUdevice_attribute of the CUDA driver API: COMPUTE_CAPABILITY_MAJOR and _MINOR, INTEGRATED."""

_NO_DEVICE = 100


@dataclass(frozen=True)
class CudaDevice:
    """A GPU as its driver describes it.

    Attributes:
        name: for example ``Orin`` or ``NVIDIA L4``.
        capability: compute capability, ``8.7``.
        memory_bytes: all of its memory.
        is_integrated: whether it shares the processor's memory.
        cuda: the newest CUDA that the driver serves, ``12.6``.
    """

    name: str
    capability: str
    memory_bytes: int
    is_integrated: bool
    cuda: str


def cuda_device(number: int = 0, library: str = "libcuda.so.1") -> CudaDevice | str:
    """The GPU of that number, or why there is none, in plain words.

    No context is created, so no memory of the GPU is taken.

    Args:
        number: as CUDA counts; ``CUDA_VISIBLE_DEVICES`` counts.
        library: the driver's library.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return f"NVIDIA's driver is not installed ({library} is not found)"
    status = cuda.cuInit(0)
    count = ctypes.c_int()
    if status == 0:
        status = cuda.cuDeviceGetCount(ctypes.byref(count))
    if status == _NO_DEVICE or (status == 0 and count.value <= number):
        return (
            "the driver shows no GPU" if not count.value else f"the driver shows {count.value} GPUs, no number {number}"
        )
    if status != 0:
        return f"NVIDIA's driver fails: cuInit gives error {status}"
    device, version = ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    calls = (
        cuda.cuDeviceGet(ctypes.byref(device), number),
        cuda.cuDeviceGetName(name, len(name), device),
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
        cuda.cuDriverGetVersion(ctypes.byref(version)),
    )
    if any(calls):
        return f"NVIDIA's driver fails: error {max(calls)}"
    major, minor, integrated = (_attribute(cuda, a, device) for a in (_MAJOR, _MINOR, _INTEGRATED))
    return CudaDevice(
        name.value.decode(errors="replace"),
        f"{major}.{minor}",
        memory.value,
        bool(integrated),
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def _attribute(cuda: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    return int(value.value) if cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) == 0 else 0
