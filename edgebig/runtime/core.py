"""Core: the loaded engine of a session, and what every call of it goes through, whichever way it was made."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from edgebig.bundle import Bundle
from edgebig.errors import BackendError, InputError
from edgebig.runtime.backend import CLOSED, Array, Backend, Cancels
from edgebig.runtime.checks import InputCheck
from edgebig.runtime.shapes import Shape
from edgebig.runtime.stats import Recorder
from edgebig.spec import TensorSpec

if TYPE_CHECKING:
    from edgebig.runtime.asynchronous import Stop, Task, Workers
    from edgebig.runtime.share import Place

T = TypeVar("T")
Outputs = dict[str, Array]
Source = str | os.PathLike[str] | Bundle
Trace = Callable[[str, Mapping[str, Any]], AbstractContextManager[Any]]
"""Called for each run with its name (``edgebig.run``) and attributes; the run happens inside the context it returns."""

FORKED = (
    "the session was opened before this process was forked, and an engine's threads stay behind: "
    "load the bundle after the fork, or call session.reload(bundle) in the new process"
)


class Loaded:
    """One engine, with what was worked out once for it. It never changes; a reload puts another in its place.

    Attributes:
        backend, name: what runs, and what it is called.
        inputs, outputs: the model's specs.
        why: one line for each thing that could have run it.
        usual: the shapes that the bundle was compiled for, by input.
        names: of all outputs.
        slots: their numbers and names.
        check: of inputs.
        run: the backend's.
    """

    __slots__ = ("_release", "backend", "check", "inputs", "name", "names", "outputs", "run", "slots", "usual", "why")

    def __init__(
        self,
        backend: Backend,
        name: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        why: Sequence[str] = (),
        usual: Mapping[str, Shape] | None = None,
        check_finite: bool = False,
        release: Callable[[], None] | None = None,
    ) -> None:
        self._release = release
        self.backend, self.name, self.why = backend, name, tuple(why)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.usual = dict(usual or {})
        self.names = [spec.name for spec in outputs]
        self.slots = tuple(enumerate(self.names))
        on_device = bool(getattr(backend, "takes_device_arrays", False))
        self.check = InputCheck(inputs, check_finite=check_finite, backend=name, device_arrays=on_device)
        self.run: Callable[[Sequence[str], dict[str, Array]], list[Array]] = backend.run

    def asked(self, outputs: Sequence[str] | None) -> list[str]:
        """The outputs' names; all for ``None``.

        Raises:
            InputError: there is no such output.
        """
        if outputs is None:
            return self.names
        try:
            names = [outputs] if isinstance(outputs, str) else list(outputs)
        except TypeError:
            raise InputError(f"outputs must be names of outputs, found {type(outputs).__name__}") from None
        unknown = [str(name) for name in names if name not in self.names]
        if unknown or not names:
            asked = f"no output {unknown[0]!r}" if unknown else "outputs is empty"
            raise InputError(f"{asked}: the model gives {', '.join(self.names)}")
        return names

    def close(self) -> None:
        """Closes the backend, and gives back what was set aside for it."""
        self.backend.close()
        if self._release is not None:
            self._release()


Reopen = Callable[[Source], tuple[Bundle, str, Loaded]]
"""Opens another bundle as the first was opened; gives the bundle, the part's name and the engine."""


class Core:
    """What :class:`Session`, its bindings and its workers share.

    Attributes:
        loaded: the engine; ``None`` once closed, and after a fork.
        direct: the same, where a run needs nothing but the engine: no trace, no device shared with other models.
        recorder: counts and times.
        workers: the threads of ``run_async``, once there are any.
    """

    def __init__(
        self,
        loaded: Loaded,
        trace: Trace | None = None,
        place: Place | None = None,
        in_flight: int = 2,
        queue: int = 16,
    ) -> None:
        self._plain = trace is None and place is None
        self._put(loaded)
        self.recorder = Recorder()
        self.workers: Workers | None = None
        self._trace, self._place = trace, place
        self._in_flight, self._queue = in_flight, queue
        self._gone = CLOSED
        self._lock = RLock()
        _CORES.add(self)

    def usable(self) -> Loaded:
        """The engine.

        Raises:
            BackendError: the session is closed, or belongs to another process.
        """
        loaded = self.loaded
        if loaded is None:
            raise BackendError(self._gone)
        return loaded

    def compute(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None, task: Task | Stop | None = None
    ) -> Outputs:
        """Runs the model once, by way of :meth:`call`.

        Args:
            inputs, outputs: as for :meth:`Session.run`.
            task: what tells it to stop.

        Raises:
            InputError, BackendError, DeadlineError: as :meth:`Session.run`.
        """

        def work(loaded: Loaded) -> Outputs:
            names = loaded.asked(outputs)
            feeds = loaded.check(inputs)
            backend = loaded.backend
            if task is None or not isinstance(backend, Cancels):
                found = loaded.run(names, feeds)
            else:
                found = backend.run_until(task.listen(backend.token()), names, feeds)
            return dict(zip(names, found, strict=True))

        return self.call(work, task=task)

    def submit(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[str] | None,
        timeout: float | None,
        *,
        watched: bool,
        owner: object,
    ) -> Task:
        """Queues a run, checked already.

        Args:
            inputs, outputs, timeout: as for :meth:`Session.run_async`.
            watched: whether the deadline is enforced for the caller.
            owner: what must live until the run has ended.

        Raises:
            InputError, BackendError, DeadlineError: as :meth:`Session.run_async`.
            UsageError: ``timeout`` is negative or no number.
        """
        from edgebig.runtime.asynchronous import Task, Workers, seconds

        timeout = seconds(timeout)
        loaded = self.usable()
        try:
            names = None if outputs is None else loaded.asked(outputs)
            loaded.check(inputs)
        except InputError:
            self.recorder.failed()
            raise
        with self._lock:
            self.usable()  # closed meanwhile
            if self.workers is None:
                self.workers = Workers(self._of_task, self._in_flight, self._queue)
        task = Task(inputs, names, timeout, self.recorder.dropped, owner)
        return self.workers.submit(task, watched=watched)

    def call(
        self, work: Callable[[Loaded], T], *, task: Task | Stop | None = None, counted: bool = True, name: str = "run"
    ) -> T:
        """Does the work on the engine: in its turn, traced, counted, and once more where a reload came between.

        Args:
            work: gets the engine; it may be called again with another one.
            task: whose deadline ends the wait for a turn.
            counted: whether it counts as a run.
            name: in traces.

        Raises:
            BackendError: the session is closed, or the work raised it.
            DeadlineError: no turn came.
        """
        loaded = self.usable()
        turn = nullcontext() if self._place is None else self._place.turn(None if task is None else task.deadline)
        with turn, self._span(name, loaded):
            while True:
                start = perf_counter_ns()
                try:
                    result = work(loaded)
                    break
                except BaseException as error:
                    now = self.loaded
                    if isinstance(error, BackendError) and now is not None and now is not loaded:
                        loaded = now
                        continue
                    if task is None or not task.is_settled:  # one that was told to stop is a drop already
                        self.recorder.failed()
                    raise
        if counted:
            self.recorder.next()
            self.recorder.add(perf_counter_ns() - start)
        return result

    def replace(self, loaded: Loaded) -> Loaded | None:
        """Puts another engine in place; returns the old one, for the caller to close.

        Raises:
            BackendError: the session was closed.
        """
        with self._lock:
            if self.loaded is None and self._gone == CLOSED:
                raise BackendError(CLOSED)
            old = self.loaded
            self._put(loaded)
            self._gone = CLOSED
        return old

    def close(self) -> Loaded | None:
        """Takes the engine away from further calls; returns it, for the caller to close."""
        with self._lock:
            loaded = self.loaded
            self._put(None)
            self._gone = CLOSED
        return loaded

    def forked(self) -> None:
        """In the child of a fork: leaves the engine to the parent. It is not freed, for that would wait for threads."""
        loaded = self.loaded
        self._put(None)
        self._lock = RLock()
        self.recorder = Recorder()
        self.workers = None
        if loaded is not None:
            self._gone = FORKED
            _leave_behind(loaded)

    def _put(self, loaded: Loaded | None) -> None:
        self.loaded: Loaded | None = loaded
        self.direct: Loaded | None = loaded if self._plain else None

    def _of_task(self, task: Task) -> Outputs:
        return self.compute(task.inputs, task.outputs, task)

    def _span(self, name: str, loaded: Loaded) -> AbstractContextManager[Any]:
        if self._trace is None:
            return nullcontext()
        return self._trace(f"edgebig.{name}", {"edgebig.backend": loaded.name})


_CORES: WeakSet[Core] = WeakSet()


def _after_fork() -> None:
    for core in list(_CORES):
        core.forked()


def _leave_behind(thing: object) -> None:
    """Keeps it from ever being freed, also when the process ends."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork)
