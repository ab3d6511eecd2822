"""The short way of a run: a CUDA graph of exactly these shapes, on arrays in main memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgebig.runtime.gpu.buffer import Buffer
from edgebig.runtime.gpu.cuda import Cuda, Stream

Array = np.ndarray[Any, Any]


class Replay:
    """A recorded execution with all that a run needs looked up: it is on the path of every inference."""

    def __init__(
        self, cuda: Cuda, stream: Stream, graph: Any, inputs: Sequence[Buffer], outputs: Mapping[str, Buffer]
    ) -> None:
        """Takes the graph, and the buffers that it copies from and to."""
        self._launch, self._synchronize = cuda.launch, cuda.synchronize
        self._stream, self._graph = stream, graph
        self._inputs = [(b.binding.name, b.shape, b.dtype, b.view()) for b in inputs]
        self._outputs = {name: buffer.view() for name, buffer in outputs.items()}

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Array] | None:
        """The named outputs in new arrays; ``None``, and nothing done, for other shapes, types or kinds of arrays.

        Raises:
            CudaError: the launch failed.
        """
        for name, shape, dtype, view in self._inputs:
            array = feeds.get(name)
            if type(array) is not np.ndarray or array.shape != shape or array.dtype is not dtype:
                return None  # what was copied already is copied anew by the run that follows
            view[...] = array
        self._launch(self._graph, self._stream)
        self._synchronize(self._stream)
        views = self._outputs
        return [views[name].copy() for name in outputs]
