"""TensorRT and TensorRT-RTX on an NVIDIA GPU, over cuda-python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import numpy as np

from edgebig.errors import BackendError, InputError
from edgebig.runtime.backend import CLOSED
from edgebig.runtime.gpu.arrays import DeviceArray
from edgebig.runtime.gpu.blocks import Blocks
from edgebig.runtime.gpu.cuda import Cuda, CudaError, import_cuda
from edgebig.runtime.gpu.engine import LoadedEngine, import_tensorrt
from edgebig.runtime.gpu.execution import Array
from edgebig.runtime.gpu.lane import BoundArrays, Lane
from edgebig.runtime.gpu.pinned import pinned_zeros
from edgebig.runtime.gpu.pool import Pool
from edgebig.runtime.gpu.weights import Weights

T = TypeVar("T")


class TensorRtBackend:
    """An engine on the GPU; a :class:`~edgebig.runtime.backend.Backend`.

    Each thread that runs at a time has a context, a stream and buffers of its own. Shapes that come a second time get a
    context and a CUDA graph of their own, the last few of them. Inputs that lie on the GPU are used where they are.

    Attributes:
        inputs, outputs: the specs that the engine itself declares.
        takes_device_arrays: feeds may be objects with ``__dlpack__`` or ``__cuda_array_interface__``.
    """

    takes_device_arrays = True

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
        self._bound: list[_Bound] = []
        self._lock = RLock()
        self._closed = False
        before = self._cuda.enter()
        try:
            self._engine = LoadedEngine(module, engine, weights)
            self._blocks = Blocks(self._cuda)
            self._pool: Pool[Lane] = Pool(self._new_lane, Lane.close, contexts)
            try:
                self._pool.give(self._pool.take())
            except BaseException:
                self._engine.close()
                raise
        finally:
            self._cuda.leave(before)
        self.inputs = tuple(b.spec() for b in self._engine.bindings if b.is_input)
        self.outputs = tuple(b.spec() for b in self._engine.bindings if not b.is_input)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Array]:
        """The named outputs, in that order.

        Raises:
            InputError: no profile of the engine takes the shapes, or an array on a GPU cannot be used in place.
            BackendError: CUDA or TensorRT failed, the GPU is lost, or it was closed.
        """
        return self._in_lane(Lane.run, outputs, feeds)

    def run_on_device(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[DeviceArray]:
        """As :meth:`run`, but the outputs stay on the GPU: arrays that offer DLPack and ``__cuda_array_interface__``.

        They are the caller's, and outlive this backend.
        """
        return self._in_lane(Lane.run_on_device, outputs, feeds, self._blocks)

    def profile(self, feeds: Mapping[str, Any]) -> list[tuple[str, float]]:
        """Milliseconds of each layer in one run without a CUDA graph, in the engine's order.

        The names are those that the engine was built with; the sum is more than a run takes that nobody watches.

        Raises:
            InputError, BackendError: as :meth:`run`.
        """
        return self._in_lane(Lane.layer_times, feeds)

    def buffer(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Zeros in page-locked memory, which the GPU reads and writes by itself.

        Raises:
            BackendError: the system has no such memory left.
        """
        return pinned_zeros(self._cuda, shape, np.dtype(dtype))

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> _Bound:
        """Ties arrays, each made by :meth:`buffer`, to a context of their own, as a CUDA graph where that can be.

        Raises:
            InputError: no profile of the engine takes the shapes.
            BackendError: CUDA or TensorRT failed, or it was closed.
        """
        with self._lock:
            if self._closed:
                raise BackendError(CLOSED)
            bound = self._guarded(lambda: _Bound(self, inputs, outputs))
            self._bound.append(bound)
        return bound

    def device_memory(self) -> int:
        """Bytes of the GPU's memory: the engine, its contexts' scratch memory, and buffers."""
        return self._engine.device_memory() + self._cuda.allocated()

    def close(self) -> None:
        """Frees everything but outputs that callers keep; a run in another thread comes to its end first."""
        with self._lock:
            self._closed = True
            bound, self._bound = self._bound, []
        before = self._cuda.enter()
        try:
            for one in bound:
                one.end()
            self._blocks.close()
            if self._pool.close():
                self._engine.close()
        finally:
            self._cuda.leave(before)

    def _new_lane(self) -> Lane:
        return Lane(self._engine, self._cuda, self._cuda_graphs)

    def _new_arrays(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> BoundArrays:
        return BoundArrays(self._engine, self._cuda, self._cuda_graphs, inputs, outputs)

    def _in_lane(self, work: Callable[..., T], *args: Any) -> T:
        """Calls a method of a lane that no other thread uses; written out, for every run comes this way."""
        if self._lost is not None:
            raise BackendError(self._lost)
        before = self._cuda.enter()
        try:
            lane = self._pool.take()
            try:
                result = work(lane, *args)
            except InputError:
                self._pool.give(lane)
                raise
            except BaseException:
                self._pool.drop(lane)
                raise
            self._pool.give(lane)
            return result
        except CudaError as error:
            self._note(error)
            raise
        finally:
            if before is not None:
                self._cuda.leave(before)
            if self._closed and self._pool.is_empty:
                self._engine.close()

    def _note(self, error: CudaError) -> None:
        if error.gone:
            self._lost = str(error)

    def _guarded(self, work: Callable[[], T]) -> T:
        """Work on the device: refused once the GPU is lost."""
        if self._lost is not None:
            raise BackendError(self._lost)
        before = self._cuda.enter()
        try:
            return work()
        except CudaError as error:
            self._note(error)
            raise
        finally:
            self._cuda.leave(before)


class _Bound:
    """Arrays bound to a backend, which ends them when it is closed."""

    def __init__(
        self, backend: TensorRtBackend, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]
    ) -> None:
        self._backend, self._lock = backend, RLock()
        self._arrays = backend._new_arrays(inputs, outputs)
        self._run = self._arrays.run

    def run(self) -> Sequence[Array]:
        """Computes from what the arrays hold; new arrays for the outputs that have none.

        Raises:
            BackendError: CUDA or TensorRT failed, the GPU is lost, it was closed, or an output does not fit its array.
        """
        with self._lock:
            return self._backend._guarded(self._run)

    def close(self) -> None:
        """Lets go of the arrays."""
        backend = self._backend
        with backend._lock:
            if self in backend._bound:
                backend._bound.remove(self)
        before = backend._cuda.enter()
        try:
            self.end()
        finally:
            backend._cuda.leave(before)

    def end(self) -> None:
        """Frees the context, once a run in another thread has ended."""
        with self._lock:
            self._arrays.close()
