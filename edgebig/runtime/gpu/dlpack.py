"""DLPack's structures: taking memory from other libraries and giving it to them, without a copy.

The layout is that of ``dlpack.h`` (https://dmlc.github.io/dlpack/latest/c_api.html), and the rules of the capsule are
those of https://dmlc.github.io/dlpack/latest/python_spec.html: it is called ``dltensor`` until its consumer has taken
it and renamed it ``used_dltensor``; whoever holds the tensor last calls its deleter once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgebig.errors import InputError

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
"""``DLDeviceType``."""

_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL, _FP8_E4M3FN = 0, 1, 2, 4, 5, 6, 10
_CODES: dict[str, tuple[int, int]] = {
    **{f"int{bits}": (_INT, bits) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (_UINT, bits) for bits in (8, 16, 32, 64)},
    **{f"float{bits}": (_FLOAT, bits) for bits in (16, 32, 64)},
    "bfloat16": (_BFLOAT, 16),
    "complex64": (_COMPLEX, 64),
    "complex128": (_COMPLEX, 128),
    "bool": (_BOOL, 8),
    "float8_e4m3fn": (_FP8_E4M3FN, 8),
}
_NAMES = {code: name for name, code in _CODES.items()}
_NEW, _USED = b"dltensor", b"used_dltensor"  # a capsule keeps the pointer: they live as long as this module


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_int)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    """``DLManagedTensor``."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]

_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_api = ctypes.pythonapi
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(
    ("PyCapsule_New", _api)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api))
# While a capsule dies it may not become an object again: its destructor gets a bare pointer.
_is_valid_raw = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer_raw = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))


@dataclass(frozen=True)
class Memory:
    """Packed memory of an array, rows last (C order).

    Attributes:
        address: of the first element.
        shape: sizes.
        dtype: as in a :class:`~edgebig.spec.TensorSpec`.
        device_type: DLPack's number of the kind of device.
        device: its number.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    device_type: int
    device: int = 0


class _Lent:
    """A managed tensor with what it points to, and the owner of the memory."""

    def __init__(self, memory: Memory, owner: object) -> None:
        self.owner = owner
        rank = len(memory.shape)
        self.shape = (ctypes.c_int64 * max(rank, 1))(*memory.shape)
        self.strides = (ctypes.c_int64 * max(rank, 1))(*packed_strides(memory.shape))
        code, bits = _CODES[memory.dtype]
        tensor = _Tensor(
            data=memory.address,
            device=_Device(memory.device_type, memory.device),
            ndim=rank,
            dtype=_DataType(code, bits, 1),
            shape=self.shape,
            strides=self.strides,
            byte_offset=0,
        )
        self.managed = _Managed(tensor, None, _delete)


_lent: dict[int, _Lent] = {}
"""What other libraries hold, by the address of its managed tensor."""


def _forget(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


def _forget_untaken(capsule: int) -> None:
    """A capsule that nobody took dies with its tensor."""
    if _is_valid_raw(capsule, _NEW):
        _lent.pop(_pointer_raw(capsule, _NEW), None)


_delete, _destroy = _Deleter(_forget), _Destructor(_forget_untaken)


def lend(memory: Memory, owner: object) -> Any:
    """A capsule of the memory; ``owner`` lives until the library that takes it calls the deleter.

    Raises:
        BufferError: DLPack has no such type, as the protocol asks.
    """
    if memory.dtype not in _CODES:
        raise BufferError(f"DLPack has no type {memory.dtype}")
    lent = _Lent(memory, owner)
    address = ctypes.addressof(lent.managed)
    _lent[address] = lent
    return _new_capsule(address, _NEW, _destroy)


def take(capsule: Any, name: str) -> tuple[Memory, Callable[[], None]]:
    """The memory in a capsule of another library, and what to call once when it is not used any more.

    Raises:
        InputError: it is no new capsule, its type is unknown, or its rows are not packed; names the input.
    """
    if not _is_valid(capsule, _NEW):
        raise InputError(f"input {name!r}: its __dlpack__ gave no new capsule: pass the array anew")
    managed = _Managed.from_address(_pointer(capsule, _NEW))
    _rename(capsule, _USED)

    def release() -> None:
        if managed.deleter:
            managed.deleter(ctypes.byref(managed))

    try:
        tensor = managed.tensor
        shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
        strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
        dtype = _NAMES.get((tensor.dtype.code, tensor.dtype.bits))
        if dtype is None or tensor.dtype.lanes != 1:
            code = f"type code {tensor.dtype.code} of {tensor.dtype.bits} bits and {tensor.dtype.lanes} lanes"
            raise InputError(f"input {name!r} is of a type that this edgebig does not know (DLPack's {code})")
        if strides is not None and not is_packed(shape, strides):
            raise not_packed(name)
        address = (tensor.data or 0) + tensor.byte_offset
        return Memory(address, shape, dtype, tensor.device.type, tensor.device.id), release
    except BaseException:
        release()
        raise


def packed_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements from one index to the next on each axis, where rows are packed."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def is_packed(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether these are the strides of packed rows; the stride of an axis with one element counts nothing."""
    if 0 in shape:
        return True
    pairs = zip(shape, strides, packed_strides(shape), strict=True)
    return all(size == 1 or found == packed for size, found, packed in pairs)


def not_packed(name: str) -> InputError:
    """What is said of an array that is a view across another one's rows."""
    return InputError(
        f"input {name!r} is not contiguous on its device: make it so first (x.contiguous(), cupy.ascontiguousarray(x))"
    )
