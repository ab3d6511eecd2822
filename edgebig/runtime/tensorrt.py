"""TensorRT and TensorRT-RTX on an NVIDIA GPU, over cuda-python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.errors import BackendError, InputError
from edgebig.runtime.gpu.cuda import Cuda, CudaError, import_cuda
from edgebig.runtime.gpu.engine import LoadedEngine, import_tensorrt
from edgebig.runtime.gpu.execution import Array, Execution
from edgebig.runtime.gpu.graphs import Recent, SeenBefore
from edgebig.runtime.gpu.pool import Pool
from edgebig.runtime.gpu.profiles import Shape, choose_profile
from edgebig.runtime.gpu.weights import Weights

_GRAPHS = 4
_REMEMBERED = 64
Key = tuple[int, tuple[Shape, ...]]


class TensorRtBackend:
    """An engine on the GPU; a :class:`~edgebig.runtime.backend.Backend`.

    Each thread that runs at a time has a context, a stream and buffers of its own. Shapes that come a second time get a
    context and a CUDA graph of their own, the last few of them.

    Attributes:
        inputs, outputs: the specs that the engine itself declares.
    """

    def __init__(
        self,
        engine: Path,
        *,
        flavour: str = "tensorrt",
        device: int = 0,
        cuda_graphs: bool = True,
        contexts: int = 4,
        weights: Weights | None = None,
        tensorrt: Any = None,
        cuda: Any = None,
    ) -> None:
        """Loads the engine and makes the first context, so that lack of memory shows here.

        Args:
            engine: the file; the caller has checked its hash.
            flavour: ``tensorrt`` or ``tensorrt-rtx``, whichever built it.
            device: which GPU, counted from 0.
            cuda_graphs: whether shapes that recur are recorded as CUDA graphs.
            contexts: how many threads run at once; further ones wait.
            weights: what to do about weights that the engine does not simply hold.
            tensorrt, cuda: the modules ``tensorrt`` and ``cuda.bindings.runtime``; by default those installed.

        Raises:
            MissingExtra: TensorRT or cuda-python is not installed.
            BackendError: no GPU, or the engine does not load.
        """
        module = import_tensorrt(flavour) if tensorrt is None else tensorrt
        self._cuda = Cuda(import_cuda() if cuda is None else cuda, device)
        self._cuda_graphs = cuda_graphs
        self._lost: str | None = None
        before = self._cuda.enter()
        try:
            self._engine = LoadedEngine(module, engine, weights)
            self._pool: Pool[_Lane] = Pool(self._new_lane, _Lane.close, contexts)
            try:
                self._pool.give(self._pool.take())
            except BaseException:
                self._engine.close()
                raise
        finally:
            self._cuda.leave(before)
        self.inputs = tuple(b.spec() for b in self._engine.bindings if b.is_input)
        self.outputs = tuple(b.spec() for b in self._engine.bindings if not b.is_input)

    def run(self, outputs: Sequence[str], feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The named outputs, in that order.

        Raises:
            InputError: no profile of the engine takes the shapes.
            BackendError: CUDA or TensorRT failed, the GPU is lost, or it was closed.
        """
        if self._lost is not None:
            raise BackendError(self._lost)
        shapes = self._shapes(feeds)
        before = self._cuda.enter()
        try:
            lane = self._pool.take()
            try:
                result = lane.run(outputs, feeds, shapes)
            except InputError:
                self._pool.give(lane)
                raise
            except BaseException:
                self._pool.drop(lane)
                raise
            self._pool.give(lane)
            return result
        except CudaError as error:
            if error.gone:
                self._lost = str(error)
            raise
        finally:
            self._cuda.leave(before)
            if self._pool.is_empty:
                self._engine.close()

    def close(self) -> None:
        """Frees everything; a run in another thread comes to its end, and what it uses goes then."""
        before = self._cuda.enter()
        try:
            if self._pool.close():
                self._engine.close()
        finally:
            self._cuda.leave(before)

    def _new_lane(self) -> _Lane:
        return _Lane(self._engine, self._cuda, self._cuda_graphs)

    def _shapes(self, feeds: dict[str, Array]) -> dict[str, Shape]:
        """The shape of each of the engine's inputs, which all must be there with its dtype and fixed sizes."""
        shapes = {}
        for spec in self.inputs:
            array = feeds.get(spec.name)
            if array is None:
                raise InputError(f"input {spec.name!r} is missing: the engine takes {spec}")
            fits = len(array.shape) == len(spec.shape) and all(
                dim is None or dim == size for dim, size in zip(spec.shape, array.shape, strict=True)
            )
            if not fits or array.dtype != spec.dtype:
                found = "x".join(map(str, array.shape)) or "scalar"
                raise InputError(
                    f"the engine takes {spec}, found {array.dtype} {found}: "
                    "pass such an array, or compile the model again"
                )
            shapes[spec.name] = array.shape
        return shapes


class _Lane:
    """What one thread runs on: a stream, a context for any shapes, and a few that are CUDA graphs of one."""

    def __init__(self, engine: LoadedEngine, cuda: Cuda, cuda_graphs: bool) -> None:
        self._engine, self._cuda = engine, cuda
        self._stream = cuda.stream_create()
        try:
            self._any = Execution(engine, cuda, self._stream)
        except BaseException:
            cuda.quietly(cuda.stream_destroy, self._stream)
            raise
        self._graphs: Recent[Key, Execution] = Recent(_GRAPHS, Execution.close)
        self._seen: SeenBefore[Key] = SeenBefore(_REMEMBERED)
        self._may_graph = cuda_graphs

    def run(self, outputs: Sequence[str], feeds: dict[str, Array], shapes: dict[str, Shape]) -> list[Array]:
        """The named outputs."""
        profile = choose_profile(self._engine.profiles, shapes, current=self._any.profile)
        key = (profile, tuple(shapes.values()))
        recorded = self._graphs.get(key)
        if recorded is not None:
            return recorded.run(outputs, feeds, profile)
        result = self._any.run(outputs, feeds, profile)
        if self._may_graph and self._seen(key):
            self._record(key, feeds)
        return result

    def close(self) -> None:
        """Frees graphs, contexts, buffers, and the stream last."""
        self._graphs.clear()
        self._any.close()
        self._cuda.quietly(self._cuda.stream_destroy, self._stream)

    def _record(self, key: Key, feeds: dict[str, Array]) -> None:
        """Makes a context of its own for the shapes, runs it once as it is, which TensorRT wants, and records it.

        Where that does not work, be it for want of memory, this lane makes no more graphs.
        """
        if not self._any.can_be_graph:
            self._may_graph = False
            return
        self._graphs.make_room()
        own: Execution | None = None
        try:
            own = Execution(self._engine, self._cuda, self._stream)
            own.run((), feeds, key[0])
            if own.capture():
                self._graphs.put(key, own)
                own = None
                return
        except BackendError as error:
            if isinstance(error, CudaError) and error.gone:
                raise
        finally:
            if own is not None:
                own.close()
        self._may_graph = False
