"""What one thread runs on: a stream, a context for any shapes, and a few that are CUDA graphs of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgebig.errors import BackendError, InputError
from edgebig.runtime.backend import CLOSED
from edgebig.runtime.gpu.arrays import DeviceArray, Release, take_array
from edgebig.runtime.gpu.blocks import Blocks
from edgebig.runtime.gpu.cuda import Cuda, CudaError
from edgebig.runtime.gpu.dlpack import Memory
from edgebig.runtime.gpu.engine import LoadedEngine
from edgebig.runtime.gpu.execution import Array, Execution
from edgebig.runtime.gpu.graphs import Recent, SeenBefore
from edgebig.runtime.gpu.profiles import Shape, choose_profile
from edgebig.runtime.gpu.replay import Replay
from edgebig.spec import TensorSpec

_GRAPHS = 4
_REMEMBERED = 64
Given = Mapping[str, Array | Memory]
Key = tuple[int, tuple[Shape, ...], tuple[int, ...]]
"""What a graph was recorded for: profile, shapes, and the addresses of inputs that lie on the device (else 0)."""


class Lane:
    """A stream with its contexts. One thread uses it at a time."""

    def __init__(self, engine: LoadedEngine, cuda: Cuda, cuda_graphs: bool) -> None:
        """Makes the stream and the first context.

        Raises:
            BackendError: there is not enough memory.
        """
        self._engine, self._cuda = engine, cuda
        self._specs = [binding.spec() for binding in engine.bindings if binding.is_input]
        self._stream = cuda.stream_create()
        try:
            self._any = Execution(engine, cuda, self._stream)
        except BaseException:
            cuda.quietly(cuda.stream_destroy, self._stream)
            raise
        self._graphs: Recent[Key, Execution] = Recent(_GRAPHS, Execution.close)
        self._seen: SeenBefore[Key] = SeenBefore(_REMEMBERED)
        self._may_graph = cuda_graphs
        self._latest: tuple[Key, Replay | None] | None = None

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Array]:
        """The named outputs.

        Raises:
            InputError: an input does not fit.
            BackendError: CUDA or TensorRT failed.
        """
        if self._latest is not None and self._latest[1] is not None:
            replayed = self._latest[1].run(outputs, feeds)
            if replayed is not None:
                return replayed
        taken, releases = self._take(feeds)
        try:
            shapes = checked_shapes(self._specs, taken)
            profile = choose_profile(self._engine.profiles, shapes, current=self._any.profile)
            addresses = tuple(v.address if isinstance(v, Memory) else 0 for v in taken.values()) if releases else ()
            key = (profile, tuple(shapes.values()), addresses)
            recorded = self._graphs.get(key)
            if recorded is not None:
                self._latest = key, recorded.replay()
                return recorded.run(outputs, taken, profile)
            result = self._any.run(outputs, taken, profile)
            if self._may_graph and self._seen(key):
                self._record(key, taken)
            return result
        finally:
            self._release(releases)

    def run_on_device(self, outputs: Sequence[str], feeds: Mapping[str, Any], blocks: Blocks) -> list[DeviceArray]:
        """As :meth:`run`; the outputs stay on the device."""
        taken, releases = self._take(feeds)
        try:
            profile = self._profile(taken)
            return self._any.run_on_device(outputs, taken, profile, blocks)
        finally:
            self._release(releases)

    def layer_times(self, feeds: Mapping[str, Any]) -> list[tuple[str, float]]:
        """Milliseconds of each layer, in a context that is used for that alone."""
        taken, releases = self._take(feeds)
        own: Execution | None = None
        try:
            profile = self._profile(taken)
            own = Execution(self._engine, self._cuda, self._stream)
            return own.layer_times(taken, profile)
        finally:
            self._release(releases)
            if own is not None:
                own.close()

    def close(self) -> None:
        """Frees graphs, contexts, buffers, and the stream last."""
        self._latest = None
        self._graphs.clear()
        self._any.close()
        self._cuda.quietly(self._cuda.stream_destroy, self._stream)

    def _profile(self, taken: Given) -> int:
        return choose_profile(self._engine.profiles, checked_shapes(self._specs, taken), current=self._any.profile)

    def _take(self, feeds: Mapping[str, Any]) -> tuple[Given, list[Release | None]]:
        """The feeds as arrays and memory, and a release for each where one of them lies on the device."""
        if all(type(value) is np.ndarray for value in feeds.values()):
            return feeds, []
        taken: dict[str, Array | Memory] = {}
        releases: list[Release | None] = []
        try:
            for name, value in feeds.items():
                taken[name], release = take_array(name, value, self._cuda, self._stream)
                releases.append(release)
        except BaseException:
            self._release(releases)
            raise
        return taken, releases

    def _release(self, releases: list[Release | None]) -> None:
        """Gives lent memory back, after the work on it is done, also where a run failed half way."""
        if releases:
            self._cuda.quietly(self._cuda.synchronize, self._stream)
            for release in releases:
                if release is not None:
                    release()

    def _record(self, key: Key, feeds: Given) -> None:
        """Makes a context of its own for the key, runs it once as it is, which TensorRT wants, and records it.

        Where that does not work, be it for want of memory, this lane makes no more graphs.
        """
        if not self._any.can_be_graph:
            self._may_graph = False
            return
        if self._latest is not None:
            self._graphs.get(self._latest[0])  # used until now, past its count
            self._latest = None
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


class BoundArrays:
    """Pinned arrays tied to a context and a stream of their own; a :class:`~edgebig.runtime.backend.Bound`."""

    def __init__(
        self,
        engine: LoadedEngine,
        cuda: Cuda,
        cuda_graphs: bool,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array | None],
    ) -> None:
        """Makes the context, runs it once on what the arrays hold, and records it as a CUDA graph where it can be one.

        Raises:
            InputError: no profile of the engine takes the shapes.
            BackendError: CUDA or TensorRT failed.
        """
        specs = [binding.spec() for binding in engine.bindings if binding.is_input]
        profile = choose_profile(engine.profiles, checked_shapes(specs, inputs))
        self._cuda, self._stream = cuda, cuda.stream_create()
        self._execution: Execution | None = None
        try:
            self._execution = Execution(engine, cuda, self._stream)
            self._execution.bind(inputs, outputs, profile)
            if cuda_graphs and self._execution.can_be_graph:
                self._execution.run((), inputs, profile)
                self._execution.capture()
        except BaseException:
            self.close()
            raise

    def run(self) -> list[Array]:
        """A run on what the input arrays hold now; new arrays for the outputs that have none.

        Raises:
            BackendError: CUDA or TensorRT failed, it was closed, or an output does not fit its array.
        """
        if self._execution is None:
            raise BackendError(CLOSED)
        return self._execution.run_bound()

    def close(self) -> None:
        """Frees the context and the stream; the arrays stay."""
        execution, self._execution = self._execution, None
        if execution is not None:
            execution.close()
        stream, self._stream = self._stream, None
        if stream is not None:
            self._cuda.quietly(self._cuda.stream_destroy, stream)


def checked_shapes(specs: Sequence[TensorSpec], feeds: Given) -> dict[str, Shape]:
    """The shape of each of the engine's inputs, which all must be there with its dtype and fixed sizes.

    Raises:
        InputError: one is missing or does not fit.
    """
    shapes = {}
    for spec in specs:
        array = feeds.get(spec.name)
        if array is None:
            raise InputError(f"input {spec.name!r} is missing: the engine takes {spec}")
        fits = len(array.shape) == len(spec.shape) and all(
            dim is None or dim == size for dim, size in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or array.dtype != spec.dtype:
            found = "x".join(map(str, array.shape)) or "scalar"
            raise InputError(
                f"the engine takes {spec}, found {array.dtype} {found}: pass such an array, or compile the model again"
            )
        shapes[spec.name] = array.shape
    return shapes
