"""Arrays of other libraries, by the protocols that they share: DLPack and the CUDA array interface.

DLPack: https://dmlc.github.io/dlpack/latest/python_spec.html. CUDA array interface, version 3:
https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgebig.errors import InputError
from edgebig.spec import TensorSpec

_IN_MAIN_MEMORY = {1, 3, 11}
"""DLPack's kDLCPU, kDLCUDAHost and kDLROCMHost: the processor may read all of them."""

_DEVICES = {2: "cuda", 7: "vulkan", 8: "metal", 10: "rocm", 13: "cuda managed"}


def is_foreign(value: object) -> bool:
    """Whether it is an array of another library, and no NumPy array."""
    if isinstance(value, (np.ndarray, np.generic)):
        return False
    return hasattr(value, "__dlpack__") or hasattr(type(value), "__cuda_array_interface__")


def as_array(spec: TensorSpec, value: Any, backend: str, device_arrays: bool) -> Any:
    """A NumPy array of the same memory, where that is main memory; else the value itself, for a backend on a GPU.

    Raises:
        InputError: it lies on a device and the backend takes no such arrays, it does not say where, or NumPy cannot
            take it.
    """
    try:
        device = _device(value)
    except Exception as error:  # each library raises its own, torch for one on its device "meta"
        raise InputError(
            f"input {spec.name!r}: the {type(value).__name__} does not say where it lies: {_brief(error)}: "
            f"pass a {spec.dtype} array in main memory"
        ) from error
    if device is not None:
        if device_arrays:
            return value
        raise InputError(
            f"input {spec.name!r} lies on the device {device}, and {backend or 'this backend'} takes arrays in main "
            "memory: copy it there first (value.cpu() in torch, cupy.asnumpy(value))"
        )
    try:
        return np.from_dlpack(value)
    except Exception as error:  # each library raises its own
        raise InputError(
            f"input {spec.name!r}: NumPy does not take the {type(value).__name__}: {_brief(error)}: "
            f"pass a contiguous {spec.dtype} array in main memory that needs no gradient"
        ) from error


def shape_on_device(spec: TensorSpec, value: Any) -> tuple[int, ...]:
    """The shape of an array on a device, after its dtype was compared with the spec's.

    Raises:
        InputError: another dtype, or it says neither.
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is None:
            raise InputError(
                f"input {spec.name!r}: the {type(value).__name__} says neither shape nor dtype: pass a NumPy array"
            )
        shape, dtype = interface["shape"], np.dtype(interface["typestr"])
    found = str(dtype).rpartition(".")[2]  # torch says torch.float32
    if found != spec.dtype:
        raise InputError(f"input {spec.name!r} must be {spec.dtype}, found {found} on a device: convert it there")
    return tuple(int(size) for size in shape)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _device(value: Any) -> str | None:
    """The device that it lies on; ``None`` for main memory."""
    if hasattr(value, "__dlpack_device__"):
        kind, number = value.__dlpack_device__()
        return None if int(kind) in _IN_MAIN_MEMORY else f"{_DEVICES.get(int(kind), f'of kind {int(kind)}')}:{number}"
    return "cuda" if hasattr(value, "__cuda_array_interface__") else None
