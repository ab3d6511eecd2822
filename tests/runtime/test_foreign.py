"""Arrays of other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from edgebig.errors import InputError
from edgebig.runtime import load
from edgebig.runtime.checks import InputCheck
from edgebig.spec import TensorSpec

SPEC = TensorSpec("x", "float32", ("batch", 3))


class OnGpu:
    """What an array on a GPU shows of itself."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, dtype

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("nobody may copy it")


class Interface:
    """One that has the CUDA array interface alone."""

    __cuda_array_interface__ = {"shape": (2, 3), "typestr": "<f4", "data": (4096, False), "version": 3}


def test_tensors_in_main_memory_are_taken_without_a_copy(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    taken = InputCheck([SPEC])({"x": tensor})["x"]
    assert isinstance(taken, np.ndarray) and taken.ctypes.data == tensor.data_ptr()
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1) as session:
        assert session.run({"x": tensor})["y"].tolist() == (tensor + 1).tolist()
        assert session.run({"x": tensor.T.contiguous().T})["y"].tolist() == (tensor + 1).tolist()
        assert session.run_async({"x": tensor}).result(10)["y"].tolist() == (tensor + 1).tolist()
        with pytest.raises(InputError, match="input 'x' must be float32 batchx3, found float64 2x3"):
            session.run({"x": tensor.double()})
        with pytest.raises(InputError, match="input 'x': NumPy does not take the Tensor: .* needs no gradient"):
            session.run({"x": tensor.clone().requires_grad_()})
        with pytest.raises(InputError, match="input 'x': NumPy does not take the Tensor: "):
            session.run({"x": tensor.to(torch.bfloat16)})


def test_arrays_on_a_gpu_are_refused_by_a_backend_on_the_cpu(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1) as session:
        for value, device in ((OnGpu((2, 3), "float32"), "cuda:1"), (Interface(), "cuda")):
            with pytest.raises(InputError) as caught:
                session.run({"x": value})
            assert str(caught.value) == (
                f"input 'x' lies on the device {device}, and onnxruntime-cpu takes arrays in main memory: "
                "copy it there first (value.cpu() in torch, cupy.asnumpy(value))"
            )


def test_a_backend_on_the_gpu_gets_them_as_they_are() -> None:
    check = InputCheck([SPEC, TensorSpec("z", "bfloat16", ("batch",))], device_arrays=True)
    half = OnGpu((2,), "torch.bfloat16")
    for value in (OnGpu((2, 3), "torch.float32"), Interface(), np.zeros((2, 3), np.float32)):
        feeds = check({"x": value, "z": half})
        assert feeds["x"] is value and feeds["z"] is half
    with pytest.raises(InputError, match="input 'x' must be float32, found float16 on a device: convert it there"):
        check({"x": OnGpu((2, 3), "float16"), "z": half})
    with pytest.raises(InputError, match="axis 1 of input 'x' must be 3"):
        check({"x": OnGpu((2, 4), "float32"), "z": half})
    with pytest.raises(InputError, match="the axis 'batch' must be of one size"):
        check({"x": OnGpu((5, 3), "float32"), "z": half})


class Lost(OnGpu):
    """As a tensor of torch on its device ``meta``: it does not say where it lies."""

    def __dlpack_device__(self) -> tuple[int, int]:
        raise ValueError("Unknown device type meta for Dlpack")


def test_one_that_does_not_say_where_it_lies_is_refused() -> None:
    message = (
        "input 'x': the Lost does not say where it lies: Unknown device type meta for Dlpack: pass a float32 array"
    )
    for device_arrays in (False, True):
        with pytest.raises(InputError, match=message):
            InputCheck([SPEC], device_arrays=device_arrays)({"x": Lost((2, 3), "float32")})


def test_names_are_still_looked_at() -> None:
    with pytest.raises(InputError, match="of the inputs given: x missing; w unknown"):
        InputCheck([SPEC])({"w": OnGpu((2, 3), "float32")})
