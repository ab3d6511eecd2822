"""Executor: runs a graph with ONNX Runtime, as the reference that stages compare with."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from edgebig.errors import GraphError
from edgebig.graph.graph import Graph
from edgebig.graph.unpack import runnable

Level = Literal["off", "basic", "all"]
_LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_IN_MEMORY_BELOW = 1 << 30
_SMALL = 1 << 10
"""Bytes below which a weight stays in the model: shape inference reads small ones only there."""

_SHARED = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8}


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
    Weights in FLOAT4E2M1 run as the floats that they stand for.
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
        if threads is not None:
            options.intra_op_num_threads = threads
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        # a session does not own the memory of weights that it was handed
        self._weights: dict[str, np.ndarray[Any, Any]] = {}
        try:
            model = self._model(graph, options)
            self._session = ort.InferenceSession(model, options, providers=_PROVIDERS[device])
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            self.close()
            raise GraphError(f"ONNX Runtime refuses the graph {graph.name}: {error}") from error
        self.device: Device = best_device(self._session.get_providers())
        self.output_names = [o.name for o in self._session.get_outputs()]
        self._types = {i.name: i.type for i in self._session.get_inputs()}

    def _model(self, graph: Graph | Path, options: ort.SessionOptions) -> bytes | str:
        if isinstance(graph, Path):
            return str(graph)
        graph = runnable(graph)
        if graph.weight_bytes < _IN_MEMORY_BELOW:
            graph.load_weights()
            return self._without_weights(graph, options)
        self._folder = tempfile.TemporaryDirectory(prefix="edgebig-")
        path = Path(self._folder.name) / "model.onnx"
        graph.save(path)
        return str(path)

    def _without_weights(self, graph: Graph, options: ort.SessionOptions) -> bytes:
        """The serialized model, whose large weights the session reads where they are: twice as fast to load."""
        stub = graph.clone().model
        for name, value in stub.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _SMALL or tensor.dtype not in _SHARED:
                continue
            # ONNX Runtime finds no weight that a branch alone reads
            if not any(node.graph is stub.graph for node in value.consumers()):
                continue
            self._weights[name] = np.ascontiguousarray(tensor.numpy())
            shape = ir.Shape(self._weights[name].shape)
            value.const_value = ir.ExternalTensor("weights", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in self._weights.values()]
        options.add_external_initializers(list(self._weights), values)
        serialized: bytes = ir.to_proto(stub).SerializeToString()
        return serialized

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

    def close(self) -> None:
        """Frees the session and its files."""
        self._session = None
        self._weights = {}
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
