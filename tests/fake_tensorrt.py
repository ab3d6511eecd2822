"""A module ``tensorrt`` with an engine that computes ``y = x + 1`` (float32, batch x 3) in the memory of a FakeCuda.

With ``positive=True`` the output is the positive ones among the elements of ``y``, as many as there are.
``tests/runtime/test_fakes.py`` compares names and parameters with TensorRT-RTX's bindings, where they are installed.
"""

from __future__ import annotations

import ctypes
import enum
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeCuda


class TensorIOMode(enum.Enum):
    INPUT, OUTPUT = 1, 2


class TensorLocation(enum.Enum):
    DEVICE, HOST = 0, 1


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2


class EngineInvalidityDiagnostics(enum.IntFlag):
    VERSION_MISMATCH, UNSUPPORTED_CC, OLD_CUDA_DRIVER = 1, 2, 4


class IOutputAllocator:
    pass


class IProfiler:
    pass


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.shape, self.profile = engine, None, 0
        self.profiler: Any = None
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        engine.trt.contexts += 1

    def __del__(self) -> None:
        self.engine.trt.contexts -= 1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        self.engine.trt.profiles_set.append(profile_index)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shape = shape
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1,) if name == "y" and self.engine.trt.positive else self.shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory % 1 == 0

    def set_output_allocator(self, name: str, output_allocator: IOutputAllocator) -> bool:
        self.allocators[name] = output_allocator
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt = self.engine.trt
        trt.executions += 1
        if trt.refuses or (trt.refuses_capture and stream_handle in trt.cuda.recording):
            self.engine.logger.log(ILogger.ERROR, "the engine\n is tired")
            return False
        if self.profiler is not None:
            self.profiler.report_layer_time("add", 0.25)
        done: list[bool] = []
        trt.cuda.do(stream_handle, lambda: done.append(self._compute()))
        return all(done)

    def _compute(self) -> bool:
        cuda, shape = self.engine.trt.cuda, self.shape
        cuda.must_live(self.addresses["x"], "device")
        count = int(np.prod(shape))
        x = np.frombuffer((ctypes.c_float * count).from_address(self.addresses["x"]), np.float32)
        y = x + 1
        if self.engine.trt.positive:
            y = y[y > 0]
            allocator = self.allocators["y"]
            address = allocator.reallocate_output_async("y", 0, y.nbytes, 256, 0)
            if not address:
                return False
            allocator.notify_shape("y", y.shape)
        else:
            address = self.addresses["y"]
        cuda.must_live(address, "device")
        ctypes.memmove(address, y.ctypes.data, y.nbytes)
        return True


class Engine:
    num_io_tensors = 2
    device_memory_size_v2 = 1000

    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self.trt, self.logger = trt, logger
        self.num_optimization_profiles = len(trt.batches)

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=self.trt.dtypes[name])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1,) if name == "y" and self.trt.positive else (-1, 3)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "x" else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [(batch, 3) for batch in self.trt.batches[profile_index]]

    def create_execution_context(self) -> Context | None:
        if self.trt.contexts >= self.trt.most_contexts:
            self.logger.log(ILogger.ERROR, "out of memory")
            return None
        return Context(self)


class FakeTensorRt:
    """The module; its attributes are the switches of the tests."""

    __version__ = "10.3.0"
    TensorIOMode, TensorLocation, ILogger = TensorIOMode, TensorLocation, ILogger
    IOutputAllocator, IProfiler = IOutputAllocator, IProfiler
    EngineInvalidityDiagnostics = EngineInvalidityDiagnostics

    def __init__(self, cuda: FakeCuda, positive: bool = False) -> None:
        self.cuda, self.positive = cuda, positive
        self.engine = b"engine"
        self.batches = [(1, 2, 8)]
        self.dtypes = {"x": "FLOAT", "y": "FLOAT"}
        self.contexts = self.executions = 0
        self.most_contexts = 100
        self.refuses = self.refuses_capture = False
        self.profiles_set: list[int] = []
        self.host_code: list[bool] = []
        self.diagnostics: int | None = None  # what TensorRT-RTX says of an engine; TensorRT says nothing
        self.lean = b""  # the engine that a lean runtime of an older version runs

    def Runtime(self, logger: Any) -> Any:
        trt = self

        class Runtime:
            def __init__(self, runs: bytes, allowed: bool) -> None:
                self.runs, self.engine_host_code_allowed = runs, allowed
                if trt.diagnostics is not None:
                    self.get_engine_validity = lambda buffer: (2, trt.diagnostics)

            def load_runtime(self, path: str) -> Runtime | None:
                if not path.endswith("libnvinfer_lean.so.10"):
                    logger.log(ILogger.ERROR, "Unable to load library")
                    return None
                return Runtime(trt.lean, allowed=False)

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
                trt.host_code.append(self.engine_host_code_allowed)
                if serialized_engine != self.runs:
                    logger.log(ILogger.ERROR, "Version tag does not match")
                    return None
                return Engine(trt, logger)

        return Runtime(self.engine, allowed=True)
