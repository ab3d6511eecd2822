"""Runs in threads of their own: several at a time, a queue that is bounded, and deadlines."""

from __future__ import annotations

import atexit
import heapq
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from itertools import count
from threading import TIMEOUT_MAX, Condition, RLock, Thread, current_thread, get_ident
from time import monotonic
from typing import Any, SupportsFloat
from weakref import WeakSet

from edgebig.errors import BackendError, DeadlineError, UsageError
from edgebig.runtime.backend import CLOSED

_LOG = logging.getLogger("edgebig.runtime")
AT_EXIT = 5.0
"""Seconds that the end of the process waits for runs: a thread that ends within an engine takes the process down."""

Result = dict[str, Any]
Work = Callable[["Task"], Result]


def seconds(timeout: float | None) -> float | None:
    """The timeout as a number; ``None`` for one that is longer than Python can wait, some 292 years.

    Raises:
        UsageError: it is negative or no number.
    """
    if timeout is None:
        return None
    if not isinstance(timeout, SupportsFloat) or not timeout >= 0:
        raise UsageError(f"timeout must be 0 seconds or more, found {timeout!r:.40}")
    # a float of Python's: the clock in float32 would be wrong by milliseconds
    return float(timeout) if timeout < TIMEOUT_MAX / 2 else None


class Task:
    """One run that was asked for.

    Attributes:
        future: what the caller holds.
        deadline: on the clock of ``time.monotonic``, or ``None``.
        token: what the engine listens to while it runs, where it can be told to stop.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: list[str] | None,
        timeout: float | None,
        late: Callable[[], None],
        owner: object = None,
    ) -> None:
        """Takes what the run needs; ``late`` counts it where it is too late, ``owner`` lives until it has ended."""
        self._owner = owner
        self.inputs, self.outputs = inputs, outputs
        self.timeout = timeout
        self.deadline = None if timeout is None else monotonic() + timeout
        self.future: Future[Result] = Future()
        self.token: Any = None
        self._late = late
        self._lock = RLock()
        self._settled = self._stopped = False

    @property
    def is_settled(self) -> bool:
        """Whether its outcome is known, be it that its time was over."""
        return self._settled

    def listen(self, token: Any) -> Any:
        """Notes what tells the engine to stop; returns it."""
        self.token = token
        if self._settled or self._stopped:
            token.terminate = True
        return token

    def stop(self) -> None:
        """Tells the engine to stop where it can be, at the end of the process. The run then fails."""
        self._stopped = True
        if self.token is not None:
            self.token.terminate = True

    def result(self) -> Result:
        """Waits for the result until the deadline.

        Raises:
            DeadlineError: it did not come.
            InputError, BackendError: as the run.
        """
        left = None if self.deadline is None else max(0.0, self.deadline - monotonic())
        try:
            try:
                return self.future.result(left)
            except NotInTime:
                self.expire()
                return self.future.result()  # the result, where it came in this moment
        except CancelledError:  # by close()
            raise BackendError(CLOSED) from None

    def begin(self) -> bool:
        """Whether to run it: it was neither cancelled nor is it too late."""
        if self.deadline is not None and monotonic() >= self.deadline:
            self.expire()
        with self._lock:
            return not self._settled and self.future.set_running_or_notify_cancel()

    def finish(self, result: Result | None, error: BaseException | None) -> None:
        """Hands the result over, unless the deadline has passed: then it is dropped."""
        if self.deadline is not None and monotonic() > self.deadline:
            self.expire()
        if not self._settle():
            _LOG.debug("a result came after its deadline and was dropped")
        elif error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result or {})

    def let_go(self) -> None:
        """Holds neither arrays nor session any more."""
        self.inputs = self._owner = None

    def expire(self) -> None:
        """Ends the wait for it. The engine is told to stop where it can be; whatever it still gives is dropped."""
        if self.future.cancelled() or not self._settle():
            return
        self._late()
        if self.token is not None:
            self.token.terminate = True
        started = "while it ran" if self.future.running() else "before it began"
        late = DeadlineError(f"no result within {self.timeout:g} s: the time was over {started}: raise timeout")
        with suppress(InvalidStateError):  # cancelled in this moment
            self.future.set_exception(late)

    def _settle(self) -> bool:
        with self._lock:
            first, self._settled = not self._settled, True
        return first


class Stop:
    """What the runs of a stream listen to, so that all of them can be told to stop at once.

    Attributes:
        deadline: none; for :meth:`Core.call <edgebig.runtime.core.Core.call>`.
        is_settled: whether nobody waits for them any more.
    """

    deadline: float | None = None

    def __init__(self) -> None:
        self.is_settled = False
        self._tokens: dict[int, Any] = {}

    def listen(self, token: Any) -> Any:
        """Notes what tells the engine to stop this thread's run; returns it."""
        self._tokens[get_ident()] = token
        if self.is_settled:
            token.terminate = True
        return token

    def end(self) -> None:
        """Tells the engine to stop all runs, where it can be."""
        self.is_settled = True
        for token in list(self._tokens.values()):
            token.terminate = True


class Workers:
    """Up to ``threads`` runs at a time, and ``depth`` that wait. Threads are started when they are needed."""

    def __init__(self, work: Work, threads: int, depth: int) -> None:
        self._work, self._threads, self._depth = work, threads, depth
        lock = RLock()
        self._room, self._more = Condition(lock), Condition(lock)
        self._waiting: deque[Task] = deque()
        self._started: list[Thread] = []
        self._running: set[Task] = set()
        self._idle = 0
        self._closed = False
        self._clock: Timekeeper | None = None
        _ALL.add(self)

    @property
    def waiting(self) -> int:
        """How many have not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many run now."""
        return len(self._running)

    def submit(self, task: Task, *, watched: bool) -> Task:
        """Queues the task. Where the queue is full, waits for room.

        Args:
            task: what to run.
            watched: whether its deadline is enforced here; else the caller waits for it and does.

        Raises:
            BackendError: closed.
            DeadlineError: its deadline passed before there was room.
        """
        with self._room:
            while len(self._waiting) >= self._depth and not self._closed:
                left = None if task.deadline is None else task.deadline - monotonic()
                if left is not None and (left <= 0 or not self._room.wait(left)):
                    task.expire()
                    raise DeadlineError(
                        f"no room within {task.timeout:g} s: {len(self._waiting)} runs are waiting already: "
                        "ask for fewer, or raise queue"
                    )
                if left is None:
                    self._room.wait()
            if self._closed:
                raise BackendError(CLOSED)
            self._waiting.append(task)
            if self._idle < len(self._waiting) and len(self._started) < self._threads:
                thread = Thread(target=self._serve, name="edgebig-run", daemon=True)
                self._started.append(thread)
                thread.start()
            self._more.notify()
            if watched and task.deadline is not None and self._clock is None:
                self._clock = Timekeeper()
        if watched and task.deadline is not None and self._clock is not None:
            self._clock.watch(task)
        return task

    def close(self, timeout: float | None = None, *, stop: bool = False) -> None:
        """Cancels what has not begun, and waits for what runs, at most ``timeout`` seconds; or has it ``stop``."""
        with self._room:
            self._closed = True
            left, self._waiting = list(self._waiting), deque()
            for task in self._running if stop else ():
                task.stop()
            self._room.notify_all()
            self._more.notify_all()
        for task in left:
            if task.future.cancel():
                task.future.set_running_or_notify_cancel()  # wakes whoever waits for it
            task.let_go()
        if self._clock is not None:
            self._clock.close()
        end = None if timeout is None else monotonic() + timeout
        for thread in self._started:
            if thread is not current_thread():
                thread.join(None if end is None else max(0.0, end - monotonic()))

    def _serve(self) -> None:
        while True:
            with self._more:
                while not self._waiting:
                    if self._closed:
                        return
                    self._idle += 1
                    self._more.wait()
                    self._idle -= 1
                task = self._waiting.popleft()
                self._running.add(task)
                self._room.notify()
            try:
                self._one(task)
            finally:
                with self._more:
                    self._running.discard(task)
                del task  # its arrays must not live until the next one comes

    def _one(self, task: Task) -> None:
        try:
            if task.begin():
                self._settle(task)
        finally:
            task.let_go()

    def _settle(self, task: Task) -> None:
        try:
            result = self._work(task)
        except DeadlineError:  # no turn on a shared device
            task.expire()
        except BaseException as error:  # it is raised where the result is asked for
            task.finish(None, error)
        else:
            task.finish(result, None)


class Timekeeper:
    """A thread that ends the wait for tasks when their time is over."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._due: list[tuple[float, int, Task]] = []
        self._number = count()
        self._closed = False
        self._thread = Thread(target=self._serve, name="edgebig-deadlines", daemon=True)
        self._thread.start()

    def watch(self, task: Task) -> None:
        """Watches one more; it has a deadline."""
        if task.deadline is None or task.future.done():
            return
        with self._changed:
            self._forget_done()
            heapq.heappush(self._due, (task.deadline, next(self._number), task))
            if self._due[0][2] is task:
                self._changed.notify()

    def _forget_done(self) -> None:
        """So that no more are kept than wait, however long their time is."""
        while self._due and self._due[0][2].future.done():
            heapq.heappop(self._due)

    def close(self) -> None:
        """Ends the thread. A task that still runs finds out by itself that it is too late."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                self._forget_done()
                left = self._due[0][0] - monotonic() if self._due else None
                if left is None or left > 0:
                    self._changed.wait(left)
                    continue
                task = heapq.heappop(self._due)[2]
            task.expire()
            del task


_ALL: WeakSet[Workers] = WeakSet()


@atexit.register
def _at_exit() -> None:
    for workers in list(_ALL):
        workers.close(timeout=AT_EXIT, stop=True)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ALL.clear)  # the threads are the parent's
