"""Executor: runs a graph with ONNX Runtime, as the reference that stages compare with."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from edgebig.errors import GraphError
from edgebig.graph.graph import Graph
from edgebig.graph.memory import LARGE, frugal, is_large, load, write_weights
from edgebig.graph.rounding import rounded
from edgebig.graph.unpack import runnable
from edgebig.sessions import open_session

Level = Literal["off", "basic", "all"]
_LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_SHAREABLE = {f"tensor({name})" for name in ("float", "double", "int8", "uint8", "int32", "int64")}
"""Of ONNX Runtime's types, those that every version hands out and NumPy takes by DLPack."""

Device = Literal["cpu", "cuda"]
_PROVIDERS: dict[Device, list[Any]] = {
    "cpu": ["CPUExecutionProvider"],
    # TF32 keeps 10 bits of the mantissa, a reference needs float32's
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"],
}


def best_device(available: Sequence[str] | None = None) -> Device:
    """``cuda`` where this ONNX Runtime has its provider.

    Args:
        available: names of providers; those of the installed ONNX Runtime by default.
    """
    found = ort.get_available_providers() if available is None else available
    return "cuda" if "CUDAExecutionProvider" in found else "cpu"


class Executor:
    """Runs a graph, or an ``.onnx`` file as it is, on ONNX Runtime's CPU provider, or on CUDA where that is asked.

    ``off`` is the level for graphs with Q/DQ pairs that are not meant for this CPU: ONNX Runtime 1.32
    drops a Relu before a symmetric Q, of FP8 above the level ``basic``, and of FP16 tensors already there.
    Weights in FLOAT4E2M1 run as the floats that they stand for, and FP16 tensors are quantized as ONNX has it, by
    rounding, where ONNX Runtime's kernel does not; a file is left as it is.
    """

    def __init__(
        self, graph: Graph | Path, level: Level = "basic", threads: int | None = None, device: Device = "cpu"
    ) -> None:
        """Loads the graph.

        With ``cuda``, :attr:`device` says afterwards where it runs: ONNX Runtime goes on with the CPU without an
        error where the driver or a library is missing.

        Raises:
            GraphError: ONNX Runtime refuses it.
        """
        options = ort.SessionOptions()
        options.graph_optimization_level = _LEVELS[level]
        # what fails is raised; only ONNX Runtime's own death is worth a line from it
        options.log_severity_level = 4
        # between two runs its idle threads would take the cores from whoever looks at the outputs
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # the plan of a second run would stay in memory beside the first run's blocks
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        try:
            with frugal() if isinstance(graph, Graph) and graph.weight_bytes >= LARGE else nullcontext():
                model = self._model(graph)
                self._session = open_session(ort, model, options, providers=_PROVIDERS[device])
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            self.close()
            raise GraphError(f"ONNX Runtime refuses the graph {graph.name}: {error}") from error
        self.device: Device = best_device(self._session.get_providers())
        self.output_names = [o.name for o in self._session.get_outputs()]
        self._types = {i.name: i.type for i in self._session.get_inputs()}

    def _model(self, graph: Graph | Path) -> bytes | str:
        if isinstance(graph, Path):
            return str(graph)
        graph = rounded(runnable(graph))
        if graph.weight_bytes < LARGE:
            return _serialized(graph)
        # ONNX Runtime maps the file where it needs the weights; from memory it would copy them, and be slower to load
        self._folder = tempfile.TemporaryDirectory(prefix="edgebig-")
        return str(_written(graph, Path(self._folder.name)))

    def run(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Runs the graph once; feeds that it does not take are passed over.

        Raises:
            GraphError: the feeds do not fit, or a kernel failed.
        """
        names = list(outputs) if outputs is not None else self.output_names
        try:
            values = self._session.run(names, {k: v for k, v in feeds.items() if k in self._types})
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise GraphError(f"ONNX Runtime failed: {error}") from error
        return dict(zip(names, values, strict=True))

    def run_in_place(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str]
    ) -> dict[str, np.ndarray[Any, Any]]:
        """As :meth:`run`, but tensors stay where ONNX Runtime wrote them, and must not be changed.

        That memory is free again as soon as the arrays are gone; :meth:`run` copies every output into fresh pages.

        Raises:
            GraphError: the feeds do not fit, or a kernel failed.
        """
        taken = {k: np.ascontiguousarray(v) if v.ndim else v for k, v in feeds.items() if k in self._types}
        if self.device != "cpu" or any(v.dtype.kind not in "biuf" for v in taken.values()):
            return self.run(taken, outputs)
        try:
            values = self._session.run_with_ort_values(
                list(outputs), {k: ort.OrtValue.ortvalue_from_numpy(v) for k, v in taken.items()}
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise GraphError(f"ONNX Runtime failed: {error}") from error
        return dict(zip(outputs, map(_in_place, values), strict=True))

    def close(self) -> None:
        """Frees the session and its files."""
        self._session = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serialized(graph: Graph) -> bytes:
    """The model as one message, weights that lie in files included."""
    whole = graph.clone().model
    load([v for g in whole.graphs() for v in g.initializers.values()])
    message: bytes = ir.to_proto(whole).SerializeToString()
    return message


def _written(graph: Graph, folder: Path) -> Path:
    """Writes the model and, to a file beside it, its large weights, which are never in memory all at once."""
    stub = graph.clone().model
    values = [v for v in stub.graph.initializers.values() if is_large(v.const_value)]
    path = folder / "weights"
    tensors = write_weights([v.const_value for v in values if v.const_value is not None], path)
    for value, tensor in zip(values, tensors, strict=True):
        value.const_value = ir.ExternalTensor(
            path.name, tensor.offset, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=str(value.name)
        )
    # ONNX Runtime looks for the weights of branches in the model
    load([v for g in stub.graphs() if g is not stub.graph for v in g.initializers.values()])
    model = folder / "model.onnx"
    model.write_bytes(ir.to_proto(stub).SerializeToString())
    return model


def _in_place(value: Any) -> np.ndarray[Any, Any]:
    """A tensor's memory as an array; a copy where this ONNX Runtime or NumPy cannot share it."""
    if not hasattr(value, "__dlpack__") or value.data_type() not in _SHAREABLE:
        copied: np.ndarray[Any, Any] = value.numpy()
        return copied
    return np.from_dlpack(value)
