"""The TensorRT backend with arrays on the GPU, bound arrays and layer times, on a fake device."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda, cudaError_t
from fake_tensorrt import FakeTensorRt

from edgebig.errors import BackendError, InputError
from edgebig.runtime.gpu import dlpack
from edgebig.runtime.gpu.arrays import DeviceArray
from edgebig.runtime.gpu.dlpack import CUDA, Memory
from edgebig.runtime.tensorrt import TensorRtBackend


def batch(size: int, start: float = 0.0) -> np.ndarray[Any, Any]:
    return np.arange(start, start + size * 3, dtype=np.float32).reshape(size, 3)


class OnGpu:
    """An array of another library on the fake device, with one of the protocols."""

    def __init__(self, cuda: FakeCuda, array: np.ndarray[Any, Any], **interface: Any) -> None:
        self._cuda, self._array = cuda, array
        self.address: int = cuda.cudaMalloc(max(array.nbytes, 1))[1]
        ctypes.memmove(self.address, array.ctypes.data, array.nbytes)
        self._interface = interface

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.address, True)
        own = {"shape": self._array.shape, "typestr": self._array.dtype.str, "data": data, "version": 3}
        return {**own, **self._interface}

    def free(self) -> None:
        self._cuda.cudaFree(self.address)


class ByDlpack(OnGpu):
    streams: list[object]

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, int(self._interface.get("device", 0))

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.streams = [*getattr(self, "streams", []), stream]
        return dlpack.lend(Memory(self.address, self._array.shape, self._array.dtype.name, CUDA), self)


def values(array: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = array.numpy()
    return found


@pytest.mark.parametrize("kind", [OnGpu, ByDlpack])
def test_an_input_on_the_gpu_is_used_in_place(cuda: FakeCuda, engine: Path, kind: type[OnGpu]) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda), cuda=cuda)
    x = kind(cuda, batch(2))
    cuda.calls.clear()
    np.testing.assert_array_equal(backend.run(["y"], {"x": x})[0], batch(2) + 1)
    assert cuda.calls.count("cudaMemcpyAsync") == 1  # the output
    for _ in range(3):
        np.testing.assert_array_equal(backend.run(["y"], {"x": x})[0], batch(2) + 1)
    assert cuda.calls.count("cudaGraphLaunch") == 2  # the same memory came a second time
    other = kind(cuda, batch(2, 50.0))
    np.testing.assert_array_equal(backend.run(["y"], {"x": other})[0], batch(2, 50.0) + 1)
    np.testing.assert_array_equal(backend.run(["y"], {"x": batch(2, 7.0)})[0], batch(2, 7.0) + 1)
    assert cuda.calls.count("cudaGraphLaunch") == 2
    np.testing.assert_array_equal(backend.run(["y"], {"x": x})[0], batch(2) + 1)
    assert cuda.calls.count("cudaGraphLaunch") == 3
    backend.close()
    x.free()
    other.free()
    del x, other


def test_the_producers_stream_is_waited_for(cuda: FakeCuda, engine: Path) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda), cuda=cuda, cuda_graphs=False)
    x = ByDlpack(cuda, batch(1))
    backend.run(["y"], {"x": x})
    (stream,) = x.streams
    assert cuda.live[stream][0] == "stream"  # the backend's own: the producer makes it wait
    x.free()
    theirs = cuda.cudaStreamCreateWithFlags(1)[1]
    x = OnGpu(cuda, batch(1), stream=theirs)
    waited: list[int] = []
    wait = cuda.cudaStreamSynchronize
    cuda.cudaStreamSynchronize = lambda stream: waited.append(stream) or wait(stream)  # type: ignore[func-returns-value, method-assign]
    backend._cuda._synchronize = cuda.cudaStreamSynchronize
    backend.run(["y"], {"x": x})
    assert waited[0] == theirs
    cuda.cudaStreamDestroy(theirs)
    backend.close()
    x.free()


def test_arrays_that_cannot_be_used_in_place_are_refused(cuda: FakeCuda, engine: Path) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda), cuda=cuda)

    def refuse(message: str, **interface: Any) -> None:
        x = OnGpu(cuda, batch(2), **interface)
        with pytest.raises(InputError, match=message):
            backend.run(["y"], {"x": x})
        x.free()

    refuse("'x' is not contiguous on its device", strides=(4, 8))
    refuse("'x' has a mask", mask=SimpleNamespace())
    refuse("names the stream 0", stream=0)
    refuse("found float64 2x3", typestr="<f8")
    refuse("is of the type >f4", typestr=">f4")
    refuse("found float32 3x2", shape=(3, 2))
    x = ByDlpack(cuda, batch(2), device=1)
    with pytest.raises(InputError, match="'x' lies on GPU 1, the engine runs on GPU 0: move it there"):
        backend.run(["y"], {"x": x})
    x.free()
    x = OnGpu(cuda, batch(2))
    cuda.device_of[x.address] = 1
    with pytest.raises(InputError, match="'x' lies on GPU 1"):
        backend.run(["y"], {"x": x})
    x.free()
    with pytest.raises(InputError, match="must be a NumPy array or one on the GPU .* found list"):
        backend.run(["y"], {"x": [[1.0, 2.0, 3.0]]})
    packed = OnGpu(cuda, batch(1), strides=(999, 4))  # the stride of an axis with one element counts nothing
    np.testing.assert_array_equal(backend.run(["y"], {"x": packed})[0], batch(1) + 1)
    packed.free()
    backend.close()


def test_a_tensor_of_torch_in_main_memory_is_taken_and_one_that_needs_its_gradient_refused(
    cuda: FakeCuda, engine: Path
) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda), cuda=cuda)
    x = torch.ones(2, 3)
    np.testing.assert_array_equal(backend.run(["y"], {"x": x})[0], np.full((2, 3), 2, np.float32))
    with pytest.raises(InputError, match=r"'x': the Tensor is not lent by DLPack: .*grad"):
        backend.run(["y"], {"x": x.requires_grad_()})
    backend.close()


def test_outputs_stay_on_the_gpu_and_belong_to_the_caller(cuda: FakeCuda, engine: Path) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda), cuda=cuda)
    cuda.calls.clear()
    (first,) = backend.run_on_device(["y"], {"x": batch(2)})
    assert isinstance(first, DeviceArray) and first.__dlpack_device__() == (CUDA, 0)
    assert cuda.calls.count("cudaMemcpyAsync") == 1  # the input
    (second,) = backend.run_on_device(["y"], {"x": batch(2, 10.0)})
    np.testing.assert_array_equal(backend.run(["y"], {"x": batch(2, 20.0)})[0], batch(2, 20.0) + 1)
    (chained,) = backend.run_on_device(["y"], {"x": second})
    np.testing.assert_array_equal(values(first), batch(2) + 1)
    np.testing.assert_array_equal(values(second), batch(2, 10.0) + 1)
    np.testing.assert_array_equal(values(chained), batch(2, 10.0) + 2)
    address = first.memory.address
    del first
    (again,) = backend.run_on_device(["y"], {"x": batch(2, 30.0)})
    assert again.memory.address == address  # used again, after all work on the device was waited for
    assert cuda.calls.count("cudaDeviceSynchronize") == 1
    backend.close()
    np.testing.assert_array_equal(values(second), batch(2, 10.0) + 1)  # they outlive the backend
    capsule = second.__dlpack__(stream=1)
    del second, chained, again
    assert len(cuda.live) == 1
    del capsule


def test_outputs_of_a_size_that_the_values_decide_stay_on_the_gpu(cuda: FakeCuda, engine: Path) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda, positive=True), cuda=cuda)
    kept = [(x, backend.run_on_device(["y"], {"x": x})[0]) for x in (batch(2, -3.0), batch(8), batch(1, -9.0))]
    for x, y in kept:
        expected = x.ravel() + 1
        np.testing.assert_array_equal(values(y), expected[expected > 0])
    x = batch(3, -4.0)
    np.testing.assert_array_equal(backend.run(["y"], {"x": x})[0], (x.ravel() + 1)[x.ravel() + 1 > 0])
    backend.close()
    del kept, y


def test_bound_arrays_are_read_and_written_by_the_gpu(cuda: FakeCuda, engine: Path) -> None:
    trt = FakeTensorRt(cuda)
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    x, y = backend.buffer((2, 3), "float32"), backend.buffer((2, 3), "float32")
    assert x.tolist() == [[0.0] * 3] * 2 and x.flags.c_contiguous and x.flags.writeable
    bound = backend.bind({"x": x}, {"y": y})
    cuda.calls.clear()
    executions = trt.executions
    for start in range(3):
        x[...] = batch(2, start)
        assert list(bound.run()) == []
        np.testing.assert_array_equal(y, batch(2, start) + 1)
    assert cuda.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"] * 3
    assert trt.executions == executions
    np.testing.assert_array_equal(backend.run(["y"], {"x": batch(1)})[0], batch(1) + 1)
    free = backend.bind({"x": x}, {"y": None})
    x[...] = batch(2, 40.0)
    (made,) = free.run()
    np.testing.assert_array_equal(made, batch(2, 40.0) + 1)
    bound.close()
    with pytest.raises(BackendError, match="the session is closed"):
        bound.run()
    wrong = backend.bind({"x": x}, {"y": backend.buffer((1, 3), "float32")})
    with pytest.raises(BackendError, match=r"'y' is \(2, 3\), its buffer \(1, 3\): bind it anew"):
        wrong.run()
    wrong.close()
    with pytest.raises(InputError, match="has the shape 9x3, the engine takes 1x3 to 8x3"):
        backend.bind({"x": backend.buffer((9, 3), "float32")}, {"y": None})
    backend.close()
    with pytest.raises(BackendError, match="the session is closed"):
        free.run()
    with pytest.raises(BackendError, match="the session is closed"):
        backend.bind({"x": x}, {"y": y})
    assert trt.contexts == 0
    assert y.tolist() == (batch(2, 2.0) + 1).tolist()  # the arrays stay
    del x, y, wrong


def test_bound_outputs_of_a_size_that_the_values_decide(cuda: FakeCuda, engine: Path) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda, positive=True), cuda=cuda)
    x = backend.buffer((1, 3), "float32")
    bound = backend.bind({"x": x}, {"y": None})
    for start in (-3.0, 0.0, -9.0):
        x[...] = batch(1, start)
        expected = batch(1, start).ravel() + 1
        np.testing.assert_array_equal(bound.run()[0], expected[expected > 0])
    y = backend.buffer((2,), "float32")
    fixed = backend.bind({"x": x}, {"y": y})
    x[...] = [[-5.0, 1.0, 2.0]]
    fixed.run()
    assert y.tolist() == [2.0, 3.0]
    x[...] = 1.0
    with pytest.raises(BackendError, match=r"'y' is \(3,\), its buffer \(2,\): bind it anew"):
        fixed.run()
    backend.close()
    del x, y


def test_a_lost_gpu_is_told_to_bound_arrays_too(cuda: FakeCuda, engine: Path) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda), cuda=cuda)
    x = backend.buffer((1, 3), "float32")
    bound = backend.bind({"x": x}, {"y": None})
    cuda.fail["cudaGraphLaunch"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(BackendError, match="the GPU is lost"):
        bound.run()
    with pytest.raises(BackendError, match="the GPU is lost"):
        backend.run(["y"], {"x": batch(1)})
    backend.close()
    del x


def test_a_bound_run_in_another_thread_ends_before_close_frees_it(cuda: FakeCuda, engine: Path) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda), cuda=cuda)
    x = backend.buffer((1, 3), "float32")
    bound = backend.bind({"x": x}, {"y": None})
    inside, leave = threading.Event(), threading.Event()
    wait = cuda.cudaStreamSynchronize

    def slow(stream: int) -> tuple[Any, ...]:
        inside.set()
        leave.wait(10)
        return wait(stream)

    backend._cuda._synchronize = slow
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(bound.run()))
    thread.start()
    assert inside.wait(10)
    closing = threading.Thread(target=backend.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    leave.set()
    thread.join()
    closing.join()
    np.testing.assert_array_equal(found[0], np.ones((1, 3), np.float32))
    del x


def test_layer_times(cuda: FakeCuda, engine: Path) -> None:
    trt = FakeTensorRt(cuda)
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    assert backend.profile({"x": batch(2)}) == [("add", 0.25)]
    assert trt.executions == 2  # one to warm up
    assert trt.contexts == 1
    np.testing.assert_array_equal(backend.run(["y"], {"x": batch(2)})[0], batch(2) + 1)
    backend.close()


def test_memory_is_counted(cuda: FakeCuda, engine: Path) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda), cuda=cuda, cuda_graphs=False)
    assert backend.device_memory() == len(b"engine") + 1000
    backend.run(["y"], {"x": batch(2)})
    assert backend.device_memory() == len(b"engine") + 1000 + 256 + 256
    backend.close()
    assert backend.device_memory() == len(b"engine")
