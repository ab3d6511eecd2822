"""DLPack on memory of the processor, given to and taken from NumPy and torch."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from edgebig.errors import InputError
from edgebig.runtime.gpu import dlpack
from edgebig.runtime.gpu.arrays import DeviceArray
from edgebig.runtime.gpu.dlpack import CPU, Memory, is_packed, lend, packed_strides, take


class Owner:
    """Whose life is watched."""


def lent(array: np.ndarray[Any, Any], owner: object) -> DeviceArray:
    """An output as a backend gives it, but in the processor's memory."""
    memory = Memory(array.ctypes.data, array.shape, array.dtype.name, CPU)
    return DeviceArray(memory, (array, owner), array.copy)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "int64", "uint8", "bool", "complex64"])
@pytest.mark.parametrize("shape", [(2, 3), (), (1, 4, 1), (0, 3)])
def test_numpy_and_torch_see_the_same_memory(dtype: str, shape: tuple[int, ...]) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    given = lent(array, None)
    as_numpy, as_torch = np.from_dlpack(given), torch.from_dlpack(given)
    np.testing.assert_array_equal(as_numpy, array, strict=True)
    assert tuple(as_torch.shape) == shape and str(as_torch.dtype) == f"torch.{dtype}"
    if array.size:
        array.reshape(-1)[0] = 1
        assert as_numpy.ctypes.data == as_torch.data_ptr() == array.ctypes.data
        assert as_torch.reshape(-1)[0].item() == as_numpy.reshape(-1)[0] == 1


def test_the_owner_lives_as_long_as_anybody_uses_its_memory() -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    owner = Owner()
    watch = weakref.ref(owner)
    given = lent(np.ones(3, np.float32), owner)
    del owner
    first, second = np.from_dlpack(given), torch.from_dlpack(given)
    view = second[1:]
    del given, second
    gc.collect()
    assert watch() is not None
    del first
    gc.collect()
    assert watch() is not None and view.tolist() == [1, 1]
    del view
    gc.collect()
    assert watch() is None
    assert dlpack._lent == {}


def test_a_capsule_that_nobody_takes_frees_its_owner() -> None:
    owner = Owner()
    watch = weakref.ref(owner)
    capsule = lent(np.ones(3, np.float32), owner).__dlpack__()
    del owner
    gc.collect()
    assert watch() is not None
    del capsule
    gc.collect()
    assert watch() is None
    assert dlpack._lent == {}


def test_memory_is_taken_without_a_copy_and_given_back_once() -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.arange(12.0).reshape(3, 4)[1:]
    memory, release = take(tensor.__dlpack__(), "x")
    assert memory == Memory(tensor.data_ptr(), (2, 4), "float32", CPU)
    release()
    assert take(torch.zeros(2, dtype=torch.bfloat16).__dlpack__(), "x")[0].dtype == "bfloat16"
    for odd in (tensor.T, torch.zeros(4, 4)[:, ::2]):
        with pytest.raises(InputError, match=r"input 'x' is not contiguous on its device.*x\.contiguous"):
            take(odd.__dlpack__(), "x")
    capsule = tensor.__dlpack__()
    take(capsule, "x")[1]()
    with pytest.raises(InputError, match="gave no new capsule"):
        take(capsule, "x")
    owner = Owner()
    watch = weakref.ref(owner)
    _, release = take(lent(np.ones(3, np.float32), owner).__dlpack__(), "x")
    del owner
    gc.collect()
    assert watch() is not None
    release()
    gc.collect()
    assert watch() is None


def test_what_dlpack_has_no_words_for() -> None:
    with pytest.raises(BufferError, match="no type float4_e2m1fn"):
        lend(Memory(0, (1,), "float4_e2m1fn", CPU), None)
    given = lent(np.ones(3, np.float32), None)
    for request in ({"copy": True}, {"dl_device": (2, 0)}):
        with pytest.raises(BufferError, match=r"use numpy\(\) for a copy"):
            given.__dlpack__(**request)
    assert given.__dlpack__(dl_device=(CPU, 0), max_version=(1, 0), copy=False) is not None
    assert given.__dlpack_device__() == (CPU, 0)


def test_an_array_describes_itself() -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    given = lent(array, None)
    assert given.__cuda_array_interface__ == {
        "shape": (2, 3),
        "typestr": "<i8",
        "data": (array.ctypes.data, False),
        "strides": None,
        "stream": None,
        "version": 3,
    }
    assert (given.ndim, given.nbytes, str(given)) == (2, 48, "<int64 2x3 on GPU 0>")
    np.testing.assert_array_equal(given.numpy(), array)
    assert lent(np.ones((0, 3)), None).__cuda_array_interface__["data"] == (0, False)


def test_strides_of_packed_rows() -> None:
    assert packed_strides((2, 3, 4)) == (12, 4, 1)
    assert packed_strides(()) == ()
    assert is_packed((2, 3), (3, 1)) and is_packed((1, 3), (99, 1)) and is_packed((0, 3), (7, 7))
    assert not is_packed((3, 2), (1, 3)) and not is_packed((4,), (2,))


def test_the_structures_are_as_large_as_in_c() -> None:
    """On machines with pointers of eight bytes: 8 + 8 + 4 + 4 + 8 + 8 + 8, and two pointers more."""
    if ctypes.sizeof(ctypes.c_void_p) == 8:
        assert ctypes.sizeof(dlpack._Tensor) == 48
        assert ctypes.sizeof(dlpack._Managed) == 64
