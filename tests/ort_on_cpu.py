"""The real onnxruntime, with GPU providers that are its CPU provider: ``cuda`` memory is the processor's.

What it takes beyond the real signatures would fail in the real functions, which it calls.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import onnxruntime

GPU = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def _here(kind: str) -> str:
    return "cpu" if kind == "cuda" else kind


class _Binding:
    def __init__(self, real: Any, calls: list[tuple[Any, ...]]) -> None:
        self._real, self._calls = real, calls

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
    ) -> None:
        self._calls.append(("bind_input", name, device_type, buffer_ptr))
        self._real.bind_input(name, _here(device_type), device_id, element_type, shape, buffer_ptr)

    def bind_output(self, name: str, device_type: str = "cpu", device_id: int = 0) -> None:
        self._calls.append(("bind_output", name, device_type))
        self._real.bind_output(name, _here(device_type), device_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class OrtOnCpu:
    """The module.

    Attributes:
        available: the providers that it says it has.
        falls_back: whether sessions run on the CPU, as where a provider does not start.
        opened: for each session its providers, the level of optimization, and whether it fell back.
        calls: of I/O bindings.
        refuses_graphs: whether a session with a CUDA graph does not open.
    """

    GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
    RunOptions, SessionOptions = onnxruntime.RunOptions, onnxruntime.SessionOptions
    __version__ = onnxruntime.__version__

    def __init__(self, folder: Path, available: list[str] = GPU) -> None:
        self.__file__ = str(folder / "__init__.py")
        (folder / "capi").mkdir()
        for provider in ("cuda", "tensorrt"):
            (folder / "capi" / f"libonnxruntime_providers_{provider}.so").write_bytes(b"")
        self.available = available
        self.falls_back = self.refuses_graphs = False
        self.opened: list[tuple[Any, Any]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.run_options: list[Any] = []
        module = self

        class OrtValue(onnxruntime.OrtValue):  # type: ignore[misc]
            @staticmethod
            def ortvalue_from_shape_and_type(
                shape: Any, element_type: Any, device_type: str = "cpu", device_id: int = 0
            ) -> Any:
                module.calls.append(("allocate", tuple(shape), device_type))
                make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
                made = make(shape, element_type, _here(device_type), device_id)
                shared = made.numpy
                made.numpy = lambda: shared().copy()  # as of memory on a GPU
                return made

        class InferenceSession(onnxruntime.InferenceSession):  # type: ignore[misc]
            def __init__(self, path: str, options: Any, *, providers: Any, **more: Any) -> None:
                names = [p if isinstance(p, str) else p[0] for p in providers]
                flags = [p[1] for p in providers if not isinstance(p, str)]
                records = any("True" in (f.get("enable_cuda_graph"), f.get("trt_cuda_graph_enable")) for f in flags)
                if module.refuses_graphs and records:
                    raise RuntimeError("This session cannot use the graph capture feature")
                module.opened.append((providers, options.graph_optimization_level))
                self._claimed = ["CPUExecutionProvider"] if module.falls_back else names
                super().__init__(path, options, providers=["CPUExecutionProvider"], **more)

            def get_providers(self) -> list[str]:
                return self._claimed

            def io_binding(self) -> Any:
                return _Binding(super().io_binding(), module.calls)

            def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
                module.run_options.append(run_options)
                super().run_with_iobinding(iobinding._real, run_options)

        self.OrtValue, self.InferenceSession = OrtValue, InferenceSession

    def get_available_providers(self) -> list[str]:
        return self.available


def keywords(function: Any) -> list[str]:
    """Names of a function's parameters, without ``self``."""
    return [name for name in inspect.signature(function).parameters if name != "self"]
