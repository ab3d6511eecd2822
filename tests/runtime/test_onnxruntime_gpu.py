"""The GPU backends of ONNX Runtime: what they ask of it, on the real one with its CPU provider in the GPU's place."""

from __future__ import annotations

import ctypes
import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from fake_cuda import FakeCuda
from onnx import TensorProto, helper
from ort_on_cpu import OrtOnCpu, keywords

from edgebig.errors import BackendError, MissingExtra
from edgebig.runtime.gpu.arrays import DeviceArray
from edgebig.runtime.gpu.dlpack import CPU
from edgebig.runtime.gpu.providers import (
    engine_folder,
    missing_libraries,
    needed_libraries,
    tensorrt_options,
)
from edgebig.runtime.onnxruntime_gpu import OnnxRuntimeGpu, provider_problem

Array = np.ndarray[Any, Any]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def ort(tmp_path: Path) -> OrtOnCpu:
    return OrtOnCpu(tmp_path)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(tiny.add_one(), tmp_path / "add.onnx")
    return tmp_path / "add.onnx"


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """``y = x + x``, 2 x 3."""
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy"]
    made = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", value[:1], value[1:])
    opset = helper.make_opsetid("", tiny.OPSET)
    onnx.save(helper.make_model(made, opset_imports=[opset], ir_version=tiny.IR_VERSION), tmp_path / "double.onnx")
    return tmp_path / "double.onnx"


@pytest.fixture
def nonzero(tmp_path: Path) -> Path:
    """``y = NonZero(x)``: its size hangs on the values."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [1, "m"])
    made = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"])], "g", [x], [y])
    opset = helper.make_opsetid("", tiny.OPSET)
    onnx.save(helper.make_model(made, opset_imports=[opset], ir_version=tiny.IR_VERSION), tmp_path / "nonzero.onnx")
    return tmp_path / "nonzero.onnx"


def opened(ort: OrtOnCpu, graph: Path, provider: str = "cuda", **more: Any) -> OnnxRuntimeGpu:
    given = {"optimize": True, "cuda_graph": False, "cuda": FakeCuda(), **more}
    return OnnxRuntimeGpu(graph, provider, onnxruntime=ort, **given)  # type: ignore[arg-type]


def test_cuda_is_asked_with_tf32_off_and_the_processor_behind_it(ort: OrtOnCpu, graph: Path) -> None:
    backend = opened(ort, graph)
    opened(ort, graph, tf32=True, optimize=False, cuda=FakeCuda(devices=2), device=1).close()
    (first, all_of_them), (second, none) = ort.opened
    assert first == [
        ("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "False", "enable_cuda_graph": "False"}),
        "CPUExecutionProvider",
    ]
    assert second[0][1] == {"device_id": "1", "use_tf32": "True", "enable_cuda_graph": "False"}
    assert (all_of_them, none) == (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    )
    assert [str(spec) for spec in (*backend.inputs, *backend.outputs)] == ["x: float32 batchx3", "y: float32 batchx3"]
    backend.close()


def test_tensorrt_gets_caches_shapes_and_the_graphs_own_formats(
    ort: OrtOnCpu, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEBIG_CACHE", str(tmp_path / "cache"))
    profiles = {"x": {"min": [1, 3], "opt": [2, 3], "max": [8, 3]}}
    formats = ["float16", "int8", "float32"]
    opened(ort, graph, "tensorrt", formats=formats, profiles=profiles, hashes=["ab", "cd"]).close()
    ((providers, _),) = ort.opened
    (name, options), (cuda, _), cpu = providers
    assert (name, cuda, cpu) == ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    folder = engine_folder(["ab", "cd"])
    assert folder is not None and folder.parent == tmp_path / "cache/onnxruntime-tensorrt"
    assert folder != engine_folder(["abcd"]) and folder.stat().st_mode & 0o777 == 0o700
    assert options == {
        "device_id": "0",
        "trt_cuda_graph_enable": "False",
        "trt_fp16_enable": "True",
        "trt_int8_enable": "True",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder.parent),
        "trt_profile_min_shapes": "x:1x3",
        "trt_profile_opt_shapes": "x:2x3",
        "trt_profile_max_shapes": "x:8x3",
    }
    two = tensorrt_options(
        0, formats=[], profiles={**profiles, "z": {s: [4] for s in ("min", "opt", "max")}}, folder=None, cuda_graph=True
    )
    assert two["trt_profile_max_shapes"] == "x:8x3,z:4"
    assert "trt_engine_cache_enable" not in two and "trt_fp16_enable" not in two
    monkeypatch.setenv("EDGEBIG_CACHE", "off")
    assert engine_folder(["ab"]) is None


def test_a_silent_fall_back_to_the_processor_is_an_error(ort: OrtOnCpu, graph: Path) -> None:
    ort.falls_back = True
    with pytest.raises(BackendError, match=r"fell back to CPUExecutionProvider for add\.onnx: its CUDA provider does"):
        opened(ort, graph)
    ort.available = ["CPUExecutionProvider"]
    with pytest.raises(BackendError, match=r"here has no CUDA provider: pip uninstall onnxruntime, then pip install"):
        opened(ort, graph)
    assert "here has no TensorRT provider" in provider_problem(onnxruntime, "tensorrt")


def test_the_libraries_that_a_provider_lacks_are_named(ort: OrtOnCpu, graph: Path, tmp_path: Path) -> None:
    assert missing_libraries(ort, "cuda") == []
    own = Path(onnxruntime.capi.onnxruntime_pybind11_state.__file__)
    needed = needed_libraries(own)
    assert "libc.so.6" in needed and all(name.startswith(("lib", "ld-")) for name in needed)
    assert needed_libraries(graph) == []
    library = tmp_path / "capi/libonnxruntime_providers_cuda.so"
    name = b"libc.so.6\0"
    data = own.read_bytes()
    assert data.count(name) == 1
    library.write_bytes(data.replace(name, b"libZ.so.6\0"))
    assert missing_libraries(ort, "cuda") == ["libZ.so.6"]
    with pytest.raises(BackendError, match=r"CUDA provider does not find libZ\.so\.6: install these .*LD_LIBRARY_PATH"):
        opened(ort, graph)
    library.unlink()
    assert missing_libraries(ort, "cuda") == ["libonnxruntime_providers_cuda.so"]


def test_a_graph_that_onnxruntime_refuses(ort: OrtOnCpu, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"does not open bad\.onnx with CUDA: "):
        opened(ort, tmp_path / "bad.onnx")


def test_inputs_keep_their_memory_on_the_device_while_shapes_recur(ort: OrtOnCpu, graph: Path) -> None:
    backend = opened(ort, graph)
    for start in range(3):
        x = X + start
        np.testing.assert_array_equal(backend.run(["y"], {"x": x})[0], x + 1)
    assert [c for c in ort.calls if c[0] == "allocate"] == [("allocate", (2, 3), "cuda")]
    wide = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))
    kept = backend.run(["y"], {"x": wide})[0]
    np.testing.assert_array_equal(kept, wide + 1)
    np.testing.assert_array_equal(backend.run(["y"], {"x": X})[0], X + 1)
    np.testing.assert_array_equal(kept, wide + 1)  # nobody wrote into it
    assert X[0, 0] == 0  # nor into the caller's
    backend.close()
    with pytest.raises(BackendError, match="the session is closed"):
        backend.run(["y"], {"x": X})


def test_outputs_of_a_size_that_the_values_decide(ort: OrtOnCpu, nonzero: Path) -> None:
    backend = opened(ort, nonzero)
    for values in ([0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]):
        x = np.array(values, np.float32)
        np.testing.assert_array_equal(backend.run(["y"], {"x": x})[0], np.nonzero(x)[0][None])
    backend.close()


class OnGpu:
    """A CUDA array whose memory is the processor's."""

    def __init__(self, array: Array) -> None:
        self._array = np.ascontiguousarray(array)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        address = self._array.ctypes.data
        return {"shape": self._array.shape, "typestr": self._array.dtype.str, "data": (address, False), "version": 3}


def test_arrays_on_the_gpu_are_bound_where_they_are(ort: OrtOnCpu, graph: Path) -> None:
    cuda = FakeCuda()
    backend = opened(ort, graph, cuda=cuda)
    assert backend.takes_device_arrays
    x = OnGpu(X)
    np.testing.assert_array_equal(backend.run(["y"], {"x": x})[0], X + 1)
    assert ("bind_input", "x", "cuda", x._array.ctypes.data) in ort.calls
    assert not any(call[0] == "allocate" for call in ort.calls)
    assert "cudaStreamSynchronize" in cuda.calls
    np.testing.assert_array_equal(backend.run(["y"], {"x": X + 5})[0], X + 6)
    np.testing.assert_array_equal(backend.run(["y"], {"x": x})[0], X + 1)
    backend.close()
    assert cuda.live == {}


def test_outputs_stay_on_the_gpu(ort: OrtOnCpu, graph: Path) -> None:
    backend = opened(ort, graph)
    (first,) = backend.run_on_device(["y"], {"x": X})
    (second,) = backend.run_on_device(["y"], {"x": X + 10})
    assert isinstance(first, DeviceArray)
    assert ("bind_output", "y", "cuda") in ort.calls
    (longer,) = backend.run_on_device(["y"], {"x": np.concatenate([X, X])})
    np.testing.assert_array_equal(backend.run(["y"], {"x": X})[0], X + 1)  # with inputs that were held before
    np.testing.assert_array_equal(first.numpy(), X + 1)
    assert len({array.memory.address for array in (first, second, longer)}) == 3
    held = (ctypes.c_float * 6).from_address(second.memory.address)
    backend.close()
    del backend
    gc.collect()
    assert list(held) == (X + 11).ravel().tolist()


def test_without_cuda_python_arrays_on_the_gpu_are_refused(
    ort: OrtOnCpu, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingExtra("gpu", "cuda-python")

    monkeypatch.setattr("edgebig.runtime.onnxruntime_gpu.import_cuda", missing)
    backend = opened(ort, graph, cuda=None)
    assert not backend.takes_device_arrays
    np.testing.assert_array_equal(backend.run(["y"], {"x": X})[0], X + 1)
    with pytest.raises(MissingExtra, match="cuda-python"):
        backend.run(["y"], {"x": OnGpu(X)})
    backend.close()


def test_static_shapes_are_one_cuda_graph(ort: OrtOnCpu, static: Path) -> None:
    backend = opened(ort, static, cuda_graph=True)
    assert backend.cuda_graph
    ((providers, _),) = ort.opened
    assert providers[0][1]["enable_cuda_graph"] == "True"
    assert len(ort.run_options) == 3  # recorded
    ort.calls.clear()
    results = [(backend.run(["y"], {"x": X + n})[0], (X + n) * 2) for n in range(3)]
    for found, expected in results:
        np.testing.assert_array_equal(found, expected)
    assert ort.calls == []  # no memory is bound anew: a graph reads and writes where it was recorded
    np.testing.assert_array_equal(backend.run(["y"], {"x": OnGpu(X)})[0], X * 2)
    assert ort.run_options[-1].get_run_config_entry("gpu_graph_id") == "-1"
    backend.close()
    with pytest.raises(BackendError, match="the session is closed"):
        backend.run(["y"], {"x": X})


@pytest.mark.parametrize("why", ["refused", "dynamic"])
def test_without_a_graph_runs_are_as_ever(ort: OrtOnCpu, static: Path, graph: Path, why: str) -> None:
    ort.refuses_graphs = why == "refused"
    backend = opened(ort, static if why == "refused" else graph, cuda_graph=True)
    assert not backend.cuda_graph
    assert ort.opened[-1][0][0][1]["enable_cuda_graph"] == "False"
    expected = X * 2 if why == "refused" else X + 1
    np.testing.assert_array_equal(backend.run(["y"], {"x": X})[0], expected)
    assert ort.run_options == [None]
    backend.close()


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_several_threads(ort: OrtOnCpu, static: Path, cuda_graph: bool) -> None:
    backend = opened(ort, static, cuda_graph=cuda_graph, contexts=2)
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                x = X + number * 100 + turn
                if not np.array_equal(backend.run(["y"], {"x": x})[0], x * 2):
                    wrong.append((number, turn))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    backend.close()


def test_a_failed_run_tells_onnxruntimes_reason(ort: OrtOnCpu, graph: Path) -> None:
    backend = opened(ort, graph)
    with pytest.raises(BackendError, match=r"failed while running add\.onnx: "):
        backend.run(["y"], {"x": np.zeros((2, 4), np.float32)})
    np.testing.assert_array_equal(backend.run(["y"], {"x": X})[0], X + 1)
    backend.close()


def test_the_stand_in_has_the_real_signatures(ort: OrtOnCpu) -> None:
    binding = onnxruntime.IOBinding
    for name in ("bind_input", "bind_output"):
        ours = keywords(getattr(__import__("ort_on_cpu")._Binding, name))
        assert keywords(getattr(binding, name))[: len(ours)] == ours
    real = onnxruntime.OrtValue
    for name in ("ortvalue_from_shape_and_type",):
        ours = keywords(getattr(ort.OrtValue, name))
        assert keywords(getattr(real, name))[: len(ours)] == ours
    for name in ("bind_ortvalue_input", "bind_ortvalue_output", "clear_binding_inputs", "copy_outputs_to_cpu"):
        assert hasattr(binding, name)
    assert keywords(onnxruntime.InferenceSession.run_with_iobinding) == ["iobinding", "run_options"]
    for name in ("update_inplace", "data_ptr", "shape", "numpy"):
        assert hasattr(real, name)
    assert keywords(onnxruntime.InferenceSession)[2:3] == ["providers"]
    assert list(keywords(onnxruntime.preload_dlls)) == ["cuda", "cudnn", "msvc", "directory"]
    assert CPU == 1
