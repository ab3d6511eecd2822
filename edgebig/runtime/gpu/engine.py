"""A deserialized engine: what it takes and gives, its profiles, and new contexts of it."""

from __future__ import annotations

from collections import deque
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

from edgebig.compatibility import is_same_version, lean_runtime
from edgebig.errors import BackendError, MissingExtra
from edgebig.runtime.backend import CLOSED
from edgebig.runtime.gpu.buffers import Binding, dtype_name, numpy_dtype
from edgebig.runtime.gpu.plan_header import plan_header
from edgebig.runtime.gpu.profiles import Profile, Span
from edgebig.runtime.gpu.weights import Weights, prepare_weights

_MODULES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "rtx"}
_ADVICE = {
    "CUDA_ERROR": "'edgebig doctor' shows the driver",
    "OLD_CUDA_DRIVER": "update NVIDIA's driver",
    "OLD_CUDA_RUNTIME": "update the CUDA libraries beside it",
    "INSUFFICIENT_GPU_MEMORY": "compile with --weight-streaming, or free the GPU's memory",
}
"""By TensorRT-RTX's diagnostics: NVIDIA, TensorRT-RTX, "Engine Compatibility", table of EngineInvalidityDiagnostics."""


def import_tensorrt(flavour: str) -> Any:
    """The Python module of ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        MissingExtra: it is not installed.
        BackendError: it is, but does not load.
    """
    names = _MODULES[flavour]
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise BackendError(f"{name} is installed but does not load: {error}") from error
        except (ImportError, OSError, RuntimeError) as error:
            raise BackendError(f"{name} is installed but does not load: {error}") from error
    raise MissingExtra(_EXTRAS[flavour], names[0])


class LoadedEngine:
    """An engine in TensorRT's runtime. Several threads may make contexts of it.

    Attributes:
        name: its file's name, for messages.
        bindings: its inputs and outputs, in its order.
        profiles: the shapes that each of its optimization profiles takes.
        tensorrt: the module that runs it.
    """

    def __init__(self, tensorrt: Any, path: Path, weights: Weights | None = None) -> None:
        """Deserializes the file, whose hash the caller has checked. Host code in the engine stays forbidden.

        ``weights`` says what is to be done about those that the engine does not simply hold.

        Raises:
            BackendError: TensorRT refuses it, or it has a tensor that NumPy cannot hold.
        """
        self.tensorrt, self.name = tensorrt, path.name
        self._logger = _logger(tensorrt)
        self._runtime = tensorrt.Runtime(self._logger)
        if self._runtime is None:
            raise BackendError(f"TensorRT {tensorrt.__version__} does not start: {self.last_error()}")
        self._runtime.engine_host_code_allowed = False
        data = path.read_bytes()
        self._older = self._older_runtime(data)
        self._engine = (self._older or self._runtime).deserialize_cuda_engine(data)
        if self._engine is None:
            raise BackendError(f"TensorRT {tensorrt.__version__} does not load {path.name}: {self._why_invalid(data)}")
        if weights is not None:
            self._prepare(weights)
        self.file_bytes = path.stat().st_size
        self._contexts, self._lock = 0, Lock()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.bindings = tuple(self._binding(name) for name in names)
        self.profiles = tuple(self._profile(index) for index in range(self._engine.num_optimization_profiles))

    def _older_runtime(self, data: bytes) -> Any:
        """The lean runtime that runs an engine of an older version; ``None`` where this one's runs it."""
        header, file = plan_header(data), lean_runtime()
        if header is None or not file or is_same_version(header.version, self.tensorrt.__version__):
            return None
        older = self._runtime.load_runtime(file)
        if older is None:
            raise BackendError(
                f"TensorRT {self.tensorrt.__version__} does not load the lean runtime {file}: {self.last_error()}: "
                f"name that of TensorRT {header.version} in EDGEBIG_LEAN_RUNTIME"
            )
        return older

    def _why_invalid(self, data: bytes) -> str:
        """Why an engine did not load, and what to do; TensorRT-RTX tells more, from the engine's header."""
        said, advice = self.last_error(), "build it here with 'edgebig finish'"
        if hasattr(self._runtime, "get_engine_validity"):
            _, found = self._runtime.get_engine_validity(data)
            kinds = self.tensorrt.EngineInvalidityDiagnostics.__members__.items()
            names = [name for name, kind in kinds if int(found) & int(kind)]
            if names:
                said = f"{said} ({', '.join(name.lower().replace('_', ' ') for name in names)})"
            advice = next((_ADVICE[name] for name in _ADVICE if name in names), advice)
        return f"{said}: {advice}"

    def _prepare(self, weights: Weights) -> None:
        problem = prepare_weights(self.tensorrt, self._logger, self._engine, weights)
        if problem:
            raise BackendError(
                f"{self.name}: {problem}: {self.last_error()}: build it anew with 'edgebig finish --force'"
            )

    def new_context(self) -> Any:
        """An execution context with memory of its own.

        Raises:
            BackendError: there is not enough memory, or the engine is closed.
        """
        if self._engine is None:
            raise BackendError(CLOSED)
        context = self._engine.create_execution_context()
        if context is None:
            raise BackendError(f"TensorRT makes no context of {self.name}: {self.last_error()}")
        return context

    def count(self, change: int) -> None:
        """Counts contexts that were made (1) and dropped (-1)."""
        with self._lock:
            self._contexts += change

    def device_memory(self) -> int:
        """Bytes on the device: the weights, for which the file's size stands, and each context's scratch memory."""
        engine = self._engine
        scratch = 0 if engine is None else int(engine.device_memory_size_v2)
        return self.file_bytes + self._contexts * scratch

    def last_error(self) -> str:
        """What TensorRT said last, of a length that people read."""
        text = self._logger.errors[-1] if self._logger.errors else "it gave no reason"
        return text if len(text) <= 400 else text[:400] + "…"

    def close(self) -> None:
        """Frees the engine, then the runtime; its contexts must be gone."""
        self._engine = None
        self._older = None
        self._runtime = None

    def _binding(self, name: str) -> Binding:
        trt, engine = self.tensorrt, self._engine
        dtype = dtype_name(engine.get_tensor_dtype(name).name)
        if numpy_dtype(dtype) is None:
            raise BackendError(
                f"{self.name} has the tensor {name!r} of {dtype}, which NumPy lacks: "
                "compile the model with float32 or float16 inputs and outputs"
            )
        return Binding(
            name,
            dtype,
            tuple(int(size) for size in engine.get_tensor_shape(name)),
            is_input=engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            on_host=engine.get_tensor_location(name) == trt.TensorLocation.HOST,
        )

    def _profile(self, index: int) -> Profile:
        spans = {}
        for binding in self.bindings:
            if binding.is_input and not binding.is_static:
                low, best, high = self._engine.get_tensor_profile_shape(binding.name, index)
                spans[binding.name] = Span(*(tuple(int(size) for size in shape) for shape in (low, best, high)))
        return spans


def _logger(tensorrt: Any) -> Any:
    """TensorRT's messages, of which the last errors are kept; nothing is printed."""
    severities = (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR)

    class Logger(tensorrt.ILogger):  # type: ignore[misc]  # the class is known at run time
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, msg: str) -> None:
            if severity in severities:
                self.errors.append(" ".join(msg.split()))

    return Logger()
