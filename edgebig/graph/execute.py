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

Level = Literal["off", "basic", "all"]
_LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_IN_MEMORY_BELOW = 1 << 30


class Executor:
    """Runs a graph, or an ``.onnx`` file as it is, on ONNX Runtime's CPU provider.

    ``off`` is the level for graphs with Q/DQ pairs that are not meant for this CPU: ONNX Runtime 1.32
    drops a Relu before a symmetric Q, of FP8 above the level ``basic``, and of FP16 tensors already there.
    """

    def __init__(self, graph: Graph | Path, level: Level = "basic", threads: int | None = None) -> None:
        """Loads the graph.

        Raises:
            GraphError: ONNX Runtime refuses it.
        """
        options = ort.SessionOptions()
        options.graph_optimization_level = _LEVELS[level]
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        try:
            self._session = ort.InferenceSession(self._model(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            self.close()
            raise GraphError(f"ONNX Runtime refuses the graph {graph.name}: {error}") from error
        self.output_names = [o.name for o in self._session.get_outputs()]
        self._types = {i.name: i.type for i in self._session.get_inputs()}

    def _model(self, graph: Graph | Path) -> bytes | str:
        if isinstance(graph, Path):
            return str(graph)
        if graph.weight_bytes < _IN_MEMORY_BELOW:
            graph.load_weights()
            serialized: bytes = ir.to_proto(graph.model).SerializeToString()
            return serialized
        self._folder = tempfile.TemporaryDirectory(prefix="edgebig-")
        path = Path(self._folder.name) / "model.onnx"
        graph.save(path)
        return str(path)

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
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
