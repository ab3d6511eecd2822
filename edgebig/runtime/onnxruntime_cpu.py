"""ONNX Runtime on the CPU."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgebig.errors import BackendError, MissingExtra
from edgebig.spec import TensorSpec

_LOG_FATAL = 4
_SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""As in :mod:`edgebig.build.onnxruntime`: it must not come back when the graph is loaded."""

_DTYPES = {"float": "float32", "double": "float64", "float8e4m3fn": "float8_e4m3fn"}


class OnnxRuntimeCpu:
    """An ONNX graph in ONNX Runtime's CPU provider; a :class:`~edgebig.runtime.backend.Backend`.

    Attributes:
        inputs, outputs: the specs that the graph itself declares.
    """

    name = "onnxruntime-cpu"

    def __init__(self, graph: Path, *, optimize: bool, threads: int | None = None) -> None:
        """Loads the graph, with its external data from the same folder.

        Args:
            graph: the ONNX file; the caller has checked its hash.
            optimize: every graph optimization, or none. ONNX Runtime 1.32 computes something else for
                Q/DQ graphs that were made for TensorRT: it drops a Relu before a symmetric Q, of FP8
                above its basic level, and of FP16 tensors at that level already.
            threads: threads within one operator.

        Raises:
            MissingExtra: onnxruntime is not installed.
            BackendError: ONNX Runtime refuses the graph.
        """
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_FATAL
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        if threads is not None:
            options.intra_op_num_threads = threads
        self._graph = graph.name
        try:
            session = ort.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
            )
        except Exception as error:  # its errors have no common base but this
            raise BackendError(f"ONNX Runtime {ort.__version__} does not open {graph.name}: {_brief(error)}") from error
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self._run: Callable[..., list[np.ndarray[Any, Any]]] | None = session.run

    def run(self, outputs: Sequence[str], feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The named outputs, in that order.

        Raises:
            BackendError: ONNX Runtime failed, or it was closed.
        """
        run = self._run
        if run is None:
            raise BackendError("the session is closed: load the bundle again")
        try:
            return run(outputs, feeds)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed while running {self._graph}: {_brief(error)}") from error

    def close(self) -> None:
        """Drops ONNX Runtime's session; it lives on until runs in other threads have ended."""
        self._run = None


def import_onnxruntime() -> ModuleType:
    """The module ``onnxruntime``.

    Raises:
        MissingExtra: it is not installed.
        BackendError: it is, but does not load on this machine.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtra("cpu", error.name or "onnxruntime") from error
    except ImportError as error:
        raise BackendError(f"onnxruntime is installed but does not load: {error}") from error
    module: ModuleType = onnxruntime
    return module


def _brief(error: Exception) -> str:
    """The error's text without ONNX Runtime's code prefix, of a length that people read."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return text if len(text) <= 400 else text[:400] + "…"


def _spec(node: Any) -> TensorSpec:
    kind = re.sub(r"^tensor\((.*)\)$", r"\1", node.type)
    return TensorSpec(node.name, _DTYPES.get(kind, kind), tuple(node.shape))
