"""The fakes have the names and parameters of what they stand for."""

from __future__ import annotations

import inspect
from typing import Any

import fake_cuda
import fake_tensorrt
import pytest

from edgebig.runtime.gpu.engine import _ADVICE


def _functions(kind: type) -> dict[str, list[str]]:
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name: list(inspect.signature(f).parameters)[1:] for name, f in found if not name.startswith("_")}


def test_cuda_functions_are_those_of_cuda_python() -> None:
    runtime: Any = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    functions = {n: p for n, p in _functions(fake_cuda.FakeCuda).items() if n.startswith("cuda")}
    assert len(functions) >= 20
    for name, parameters in functions.items():
        assert list(inspect.signature(getattr(runtime, name)).parameters) == parameters, name
    kinds = (fake_cuda.cudaError_t, fake_cuda.cudaMemcpyKind, fake_cuda.cudaStreamCaptureMode, fake_cuda.cudaDeviceAttr)
    for kind in kinds:
        for member in kind:
            assert getattr(getattr(runtime, kind.__name__), member.name) == member.value
    assert int(runtime.cudaStreamNonBlocking) == fake_cuda.FakeCuda.cudaStreamNonBlocking
    assert int(runtime.cudaHostAllocPortable) == fake_cuda.FakeCuda.cudaHostAllocPortable


@pytest.mark.parametrize(
    ("ours", "theirs"), [(fake_tensorrt.Context, "IExecutionContext"), (fake_tensorrt.Engine, "ICudaEngine")]
)
def test_tensorrts_methods_are_those_of_the_bindings(ours: type, theirs: str) -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    for name, parameters in _functions(ours).items():
        text = getattr(getattr(trt, theirs), name).__doc__
        assert all(f"{parameter}: " in text for parameter in parameters), (name, parameters)
    for member in ("INPUT", "OUTPUT"):
        assert hasattr(trt.TensorIOMode, member)
    for member in ("DEVICE", "HOST"):
        assert hasattr(trt.TensorLocation, member)
    assert "path: str" in trt.Runtime.load_runtime.__doc__
    assert (
        "buffer: " in trt.Runtime.get_engine_validity.__doc__ and "-> tuple" in trt.Runtime.get_engine_validity.__doc__
    )
    for flag in fake_tensorrt.EngineInvalidityDiagnostics:
        assert int(getattr(trt.EngineInvalidityDiagnostics, str(flag.name))) == flag.value
    assert set(_ADVICE) <= set(trt.EngineInvalidityDiagnostics.__members__)
    assert hasattr(trt.Runtime, "engine_host_code_allowed") and hasattr(trt.ILogger, "INTERNAL_ERROR")
