"""How large buffers are, and when they grow. Plain arithmetic: no device is needed."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from edgebig.errors import BackendError
from edgebig.spec import TensorSpec

Array = np.ndarray[Any, Any]

ALIGNMENT = 256
"""Bytes; TensorRT's kernels expect addresses that are multiples of it, and ``cudaMalloc`` gives such."""

# As TensorRT's DataType names them: our name, and bits of an element.
_TYPES = {
    "FLOAT": ("float32", 32),
    "HALF": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "INT8": ("int8", 8),
    "UINT8": ("uint8", 8),
    "INT32": ("int32", 32),
    "INT64": ("int64", 64),
    "BOOL": ("bool", 8),
    "FP8": ("float8_e4m3fn", 8),
    "FP4": ("float4_e2m1fn", 4),
    "INT4": ("int4", 4),
    "E8M0": ("float8_e8m0fnu", 8),
}
_BITS = dict(_TYPES.values()) | {"float64": 64, "int16": 16, "uint16": 16, "uint32": 32}
_BITS |= {"uint64": 64, "complex64": 64, "complex128": 128}
_NUMPY = {name: np.dtype(name) for name in _BITS if name == "bool" or hasattr(np, name)}


@dataclass(frozen=True)
class Binding:
    """One input or output of an engine.

    Attributes:
        name, dtype: as in a :class:`~edgebig.spec.TensorSpec`.
        shape: sizes; -1 for a dynamic axis.
        is_input: or an output.
        on_host: whether the engine reads or writes it in host memory (a shape).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool
    on_host: bool = False

    @property
    def is_static(self) -> bool:
        """Whether every axis has a size."""
        return min(self.shape, default=0) >= 0

    def spec(self) -> TensorSpec:
        """As a session shows it."""
        return TensorSpec(self.name, self.dtype, tuple(None if size < 0 else size for size in self.shape))


def dtype_name(data_type: str) -> str:
    """Our name of a TensorRT ``DataType``, by the name of its member.

    Raises:
        BackendError: a type that no version up to 11.4 has.
    """
    if data_type not in _TYPES:
        raise BackendError(f"the engine has a tensor of type {data_type}, which this edgebig does not know: update it")
    return _TYPES[data_type][0]


def numpy_dtype(dtype: str) -> np.dtype[Any] | None:
    """NumPy's type of that name; ``None`` where NumPy lacks it."""
    return _NUMPY.get(dtype)


def byte_count(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a packed array; of types below one byte the last byte may be half filled.

    Raises:
        ValueError: an axis without a size.
    """
    if min(shape, default=0) < 0:
        raise ValueError(f"the shape {tuple(shape)} has an axis without a size")
    return (prod(shape) * _BITS[dtype] + 7) // 8


def aligned(size: int) -> int:
    """The smallest multiple of :data:`ALIGNMENT` that holds ``size`` bytes, and one at least."""
    return max(1, -(-size // ALIGNMENT)) * ALIGNMENT


def grown(capacity: int, needed: int) -> int:
    """The new capacity of a buffer that has to hold ``needed`` bytes: as before if that is enough.

    Else half as much again as before, or what is needed where that is more: shapes that grow one by one cause a number
    of allocations that is logarithmic in the last of them.
    """
    if needed <= capacity:
        return capacity
    return aligned(max(needed, capacity + capacity // 2))


def host_view(address: int, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    """An array over host memory that somebody else owns; it must outlive the array."""
    size = prod(shape) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    raw: Array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return raw.view(dtype).reshape(shape)
