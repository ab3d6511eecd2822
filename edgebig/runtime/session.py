"""Session: a loaded model that takes and gives NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsIndex
from weakref import finalize

from edgebig.errors import BackendError, UsageError
from edgebig.runtime.backend import Array, KeepsOnDevice, Measures
from edgebig.runtime.checks import no_dtype
from edgebig.runtime.core import Core, Loaded, Reopen, Source, Trace
from edgebig.runtime.shapes import Given, input_shapes
from edgebig.runtime.stats import Stats
from edgebig.spec import TensorSpec

if TYPE_CHECKING:
    from concurrent.futures import Future

    from edgebig.runtime.binding import Binding
    from edgebig.runtime.share import Place


class Session:
    """A loaded model. Made by :func:`edgebig.load`.

    Several threads may use one session: :meth:`run`, :meth:`run_async`, :meth:`stream`, :meth:`stats` and
    :meth:`reload` at once. A :class:`Binding` belongs to one thread at a time. ``docs/runtime.md`` says more.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        reopen: Reopen | None = None,
        trace: Trace | None = None,
        place: Place | None = None,
        in_flight: int = 2,
        queue: int = 16,
    ) -> None:
        """Made by :func:`edgebig.load`, whose arguments these are, checked."""
        self._core = Core(loaded, trace, place, in_flight, queue)
        self._last = loaded
        self._reopen = reopen
        # One that is dropped without close() must not leave threads behind, nor memory of a device taken. Bindings,
        # streams and runs in other threads keep it.
        finalize(self, _let_go, self._core).atexit = False

    @property
    def _shown(self) -> Loaded:
        """The engine; the last one that there was, once closed."""
        return self._core.loaded or self._last

    @property
    def inputs(self) -> list[TensorSpec]:
        """Names, dtypes and shapes, in the model's order."""
        return list(self._shown.inputs)

    @property
    def outputs(self) -> list[TensorSpec]:
        """Names, dtypes and shapes, in the model's order."""
        return list(self._shown.outputs)

    @property
    def backend(self) -> str:
        """What runs it (``onnxruntime-cpu``)."""
        return self._shown.name

    @property
    def why(self) -> tuple[str, ...]:
        """For each thing that could have run it, whether it was taken, and why or why not."""
        return self._shown.why

    def run(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, Array]:
        """Runs the model once.

        Args:
            inputs: an array for each input, of exactly its dtype, rank and sizes; axes that share a
                name (``batch``) must be of one size. Nothing is cast. Other libraries' arrays in main memory are
                taken by DLPack without a copy, those on a GPU where the backend runs there.
            outputs: which outputs to compute; by default all.
            timeout: seconds after which the result is of no use any more. The run then takes place in another thread,
                and arrays must not be changed before it ended, even where its result came too late.

        Returns:
            An array for each output asked, by name.

        Raises:
            InputError: an input or an output's name does not fit.
            BackendError: the engine failed, or the session is closed.
            DeadlineError: there was no result in time.
        """
        core = self._core
        loaded = core.direct
        if loaded is None or outputs is not None or timeout is not None:
            if timeout is None:
                return core.compute(inputs, outputs)
            return core.submit(inputs, outputs, timeout, watched=False, owner=self).result()
        start = perf_counter_ns()
        try:
            found = loaded.run(loaded.names, loaded.check(inputs))
        except Exception:
            if core.loaded is not loaded:  # reloaded or closed between: once more, or the reason
                return self.run(inputs)
            core.recorder.failed()
            raise
        recorder = core.recorder
        recorder.next()
        recorder.add(perf_counter_ns() - start)
        answer = {}
        for number, name in loaded.slots:  # a third of what dict(zip()) takes
            answer[name] = found[number]
        return answer

    def run_on_device(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Runs the model once and leaves the outputs in the GPU's memory.

        Args:
            inputs, outputs: as for :meth:`run`.

        Returns:
            An array on the GPU for each output asked, by name: ``torch.from_dlpack(y)``, ``cupy.asarray(y)`` and the
            like use it without a copy, and ``y.numpy()`` makes one in main memory. The work is done, no later run
            writes into it, and it outlives the session.

        Raises:
            InputError, BackendError: as :meth:`run`; or the backend runs on no GPU.
        """

        def work(loaded: Loaded) -> dict[str, Any]:
            backend = loaded.backend
            if not isinstance(backend, KeepsOnDevice):
                raise BackendError(f"{loaded.name} has no device that outputs could stay on: use run()")
            names = loaded.asked(outputs)
            return dict(zip(names, backend.run_on_device(names, loaded.check(inputs)), strict=True))

        return self._core.call(work)

    def run_async(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> Future[dict[str, Array]]:
        """Runs the model in another thread; several such runs may be in flight.

        Where ``queue`` runs are waiting already, this waits for room. ``cancel()`` works on a run that has not begun.
        The arrays must not be changed before the future is done.

        Args:
            inputs, outputs: as for :meth:`run`; they are checked at once.
            timeout: seconds from now, waiting included, after which the future fails with a ``DeadlineError`` and
                the result is dropped.

        Returns:
            A future of the outputs by name.

        Raises:
            InputError: an input or an output's name does not fit.
            BackendError: the session is closed.
            DeadlineError: there was no room in time.
        """
        return self._core.submit(inputs, outputs, timeout, watched=True, owner=self).future

    def bind(
        self,
        shapes: Given | None = None,
        outputs: Sequence[str] | None = None,
        buffers: Mapping[str, Array] | None = None,
    ) -> Binding:
        """Makes input and output arrays once, for calls that allocate nothing.

        Args:
            shapes: a shape for the name of an input (``{"x": (1, 3, 224, 224)}``), or a size for the name of an axis
                (``{"batch": 1}``). Sizes that are not given are the fixed ones, and those that the bundle was
                compiled for.
            outputs: which outputs to compute; by default all.
            buffers: contiguous arrays of the caller's, by name of input or output, to be used instead of new ones; an
                output's only where its shape is the one that follows from those of the inputs. ONNX Runtime on the
                CPU takes them.

        Raises:
            InputError: a shape or a buffer does not fit, or there is no such output.
            UsageError: an axis has no size, there is no such input or axis, or the engine takes no ``buffers``.
            BackendError: the engine takes no such shapes, or the session is closed.
        """
        from edgebig.runtime.binding import Binding

        loaded = self._core.usable()
        sizes = input_shapes(loaded.inputs, shapes, loaded.usual)
        return Binding(self._core, sizes, loaded.asked(outputs), {} if buffers is None else buffers, self)

    def stream(
        self,
        iterable: Iterable[Any],
        *,
        depth: int = 2,
        before: Callable[[Any], Mapping[str, Any]] | None = None,
        after: Callable[[Any, dict[str, Array]], Any] | None = None,
        in_flight: int = 1,
    ) -> Generator[Any, None, None]:
        """Runs the model on item after item, while the next is read and prepared and the last is finished.

        Each of the three steps has a thread. The order is kept, and no step runs ahead of the next by more than
        ``depth`` items. An exception in any step ends the stream, after the items before it were given.

        Where the model takes longer than the other steps, ``in_flight`` gives it more threads: on a CPU with
        ``load(threads=1)``, a run on each core makes more items a second than one run on all of them, each a
        little later.

        Args:
            iterable: items, read in a thread.
            depth: how many items may wait between two steps.
            before: makes an item's inputs; by default the item is them.
            after: makes what is given out of the item and its outputs; by default the outputs.
            in_flight: how many runs take place at a time, of successive items.

        Yields:
            What ``after`` gave for each item, in order.

        Raises:
            StreamError: an item failed; ``__cause__`` is the exception.
            UsageError: ``depth`` or ``in_flight`` is below 1.
        """
        from edgebig.runtime.asynchronous import Stop
        from edgebig.runtime.stream import stream

        stop = Stop()

        def run(inputs: Mapping[str, Any]) -> dict[str, Array]:
            return self._core.compute(inputs, None, stop)

        return stream(iterable, run, depth, before, after, in_flight, stop.end)

    def warm_up(self, shapes: Given | None = None, runs: int = 3) -> None:
        """Runs the model on zeros, so that the first real call finds memory allocated and kernels chosen.

        Args:
            shapes: as for :meth:`bind`.
            runs: how often. :meth:`stats` does not count them.

        Raises:
            InputError, UsageError, BackendError: as :meth:`bind`.
        """
        import numpy as np

        if not isinstance(runs, SupportsIndex) or runs < 1:
            raise UsageError(f"runs must be 1 or more, found {runs!r:.40}")
        specs, usual = self._shown.inputs, self._shown.usual
        odd = [spec for spec in specs if not spec.is_numpy]
        if odd:
            raise no_dtype(odd[0])
        dtypes = {spec.name: spec.dtype for spec in specs}
        feeds = {name: np.zeros(shape, dtypes[name]) for name, shape in input_shapes(specs, shapes, usual).items()}
        for _ in range(runs):
            self._core.call(lambda loaded: loaded.run(loaded.names, loaded.check(feeds)), counted=False, name="warm_up")

    def stats(self) -> Stats:
        """Calls, times, queue, drops and errors since the session was opened."""
        recorder, loaded = self._core.recorder, self._core.loaded
        p50, p95, p99 = recorder.percentiles(0.50, 0.95, 0.99)
        workers = self._core.workers
        backend = None if loaded is None else loaded.backend
        return Stats(
            calls=recorder.calls(),
            p50=p50,
            p95=p95,
            p99=p99,
            queue_depth=0 if workers is None else workers.waiting,
            in_flight=0 if workers is None else workers.running,
            drops=recorder.drops,
            errors=recorder.errors,
            device_memory=backend.device_memory() if isinstance(backend, Measures) else None,
        )

    def close(self) -> None:
        """Frees the engine. What waits in the queue is cancelled, what runs comes to its end. Twice is fine."""
        loaded = self._core.close()
        workers = self._core.workers
        if workers is not None:
            workers.close()
        if loaded is not None:
            loaded.close()

    def reload(self, source: Source, *, allow_changes: bool = False) -> None:
        """Puts another bundle in this one's place, between two calls, without failing one.

        The new one is opened as this one was and must answer its golden inputs; until then, and where it does not,
        this one goes on. Calls that have begun come to their end on the old one. Bindings move to the new one with
        their next run.

        Args:
            source: the bundle's folder, or an opened bundle.
            allow_changes: whether its inputs and outputs may differ from this one's. Bindings must then be made anew.

        Raises:
            BundleError, MissingExtra, BackendError: as :func:`edgebig.load`.
            AccuracyError: it does not answer its golden inputs as the compile recorded.
            InputError: it takes or gives something else.
            UsageError: this session was not made from a bundle.
        """
        from edgebig.runtime.reload import reloaded

        if self._reopen is None:
            raise UsageError("this session was not made by load(): it has nothing to reload")
        fresh = reloaded(self._reopen, source, self._shown, allow_changes)
        try:
            old, self._last = self._core.replace(fresh), fresh
        except BaseException:  # closed meanwhile
            fresh.close()
            raise
        if old is not None:
            old.close()

    def __reduce__(self) -> str:
        raise UsageError("a session cannot be copied or pickled: load the bundle in the process that is to run it")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _let_go(core: Core) -> None:
    loaded = core.close()
    if core.workers is not None:
        core.workers.close(timeout=0)
    if loaded is not None:
        loaded.close()
