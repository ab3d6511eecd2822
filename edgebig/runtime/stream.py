"""Stream: reading, preparing, running and finishing of successive items at the same time."""

from __future__ import annotations

import atexit
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Thread
from time import monotonic
from typing import Any, SupportsIndex
from weakref import WeakSet

from edgebig.errors import BackendError, StreamError, UsageError
from edgebig.runtime.asynchronous import AT_EXIT

_LOG = logging.getLogger("edgebig.runtime")
_PATIENCE = 1.0
"""Seconds that an ended stream waits for a step. A source that blocks (a camera) ends with its next item."""

Run = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass
class _Item:
    """What goes from step to step: the item itself, and what the latest step made of it."""

    number: int
    source: Any
    value: Any
    failed: StreamError | None = None


class Channel:
    """A queue between two threads, of at most ``depth`` items, that either side may close."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[_Item] = deque()
        self._closed = False
        self._changed = Condition()

    def put(self, item: _Item) -> bool:
        """Waits for room and adds it; ``False`` once closed."""
        with self._changed:
            while len(self._items) >= self._depth and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self) -> _Item | None:
        """The next one; ``None`` once closed and empty."""
        with self._changed:
            while not self._items and not self._closed:
                self._changed.wait()
            item = self._items.popleft() if self._items else None
            self._changed.notify_all()
            return item

    def close(self, *, at_once: bool = False) -> None:
        """Takes no more. What is in it is still given out, or thrown away ``at_once``."""
        with self._changed:
            self._closed = True
            if at_once:
                self._items.clear()
            self._changed.notify_all()

    def forked(self) -> None:
        """In the child of a fork: closed and empty, for the threads on either side are the parent's."""
        self._changed = Condition()
        self._closed = True
        self._items.clear()


class Steps:
    """The threads of a stream, and what ends them."""

    def __init__(self, channels: tuple[Channel, ...], stop: Callable[[], None] | None) -> None:
        """Takes the queues between the steps, and what tells the engine to stop."""
        self._channels, self._stop = channels, stop
        self._threads: list[Thread] = []
        self._ended = self.is_left_behind = False
        _OPEN.add(self)

    def start(self, steps: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
        """Runs each step in a thread."""
        self._threads = [Thread(target=step, args=given, name="edgebig-stream", daemon=True) for step, given in steps]
        for thread in self._threads:
            thread.start()

    def end(self, *, at_exit: bool = False) -> None:
        """Ends the threads, and waits for them; the source's (the first) not for long, as it may block."""
        if self._ended:
            return
        self._ended = True
        for channel in self._channels:
            channel.close(at_once=True)
        if self._stop is not None:
            self._stop()
        begun = monotonic()
        for thread, patience in zip(self._threads, (_PATIENCE, *[AT_EXIT if at_exit else _PATIENCE] * 2), strict=False):
            if thread.ident is not None:
                thread.join(max(0.0, begun + patience - monotonic()))

    def forked(self) -> None:
        """In the child of a fork, which has none of the threads."""
        self._ended = self.is_left_behind = True
        for channel in self._channels:
            channel.forked()


def stream(
    iterable: Iterable[Any],
    run: Run,
    depth: int,
    before: Callable[[Any], Mapping[str, Any]] | None,
    after: Callable[[Any, dict[str, Any]], Any] | None,
    in_flight: int = 1,
    stop: Callable[[], None] | None = None,
) -> Generator[Any, None, None]:
    """What :meth:`Session.stream` gives; the arguments are checked at once, the threads begin with the first item.

    Args:
        iterable, depth, before, after, in_flight: as there.
        run: computes an item's outputs.
        stop: makes every ``run`` that has begun, and every later one, end soon.

    Raises:
        UsageError: ``depth`` or ``in_flight`` is below 1, ``iterable`` is none, ``before`` or ``after`` is no function.
    """
    if not isinstance(depth, SupportsIndex) or not isinstance(in_flight, SupportsIndex) or depth < 1 or in_flight < 1:
        raise UsageError(f"depth and in_flight must be 1 or more, found {depth!r:.40} and {in_flight!r:.40}")
    if not isinstance(iterable, Iterable) and not hasattr(type(iterable), "__getitem__"):
        raise UsageError(f"a stream needs something to iterate over, found {type(iterable).__name__}")
    for name, step in (("before", before), ("after", after)):
        if step is not None and not callable(step):
            raise UsageError(f"{name} must be a function, found {type(step).__name__}")
    return _stream(iterable, run, depth, before, after, in_flight, stop)


def _stream(
    iterable: Iterable[Any],
    run: Run,
    depth: int,
    before: Callable[[Any], Mapping[str, Any]] | None,
    after: Callable[[Any, dict[str, Any]], Any] | None,
    in_flight: int,
    stop: Callable[[], None] | None,
) -> Generator[Any, None, None]:
    # items wait for their turn with their runs under way, so that several of those keep the order
    prepared, computed, finished = Channel(depth), Channel(max(depth, in_flight - 1)), Channel(depth)
    steps = Steps((prepared, computed, finished), stop)
    pool = ThreadPoolExecutor(in_flight, "edgebig-stream") if in_flight > 1 else None

    def compute(item: _Item) -> Any:
        return run(item.value) if pool is None else pool.submit(run, item.value)

    def finish(item: _Item) -> Any:
        outputs = item.value
        if isinstance(outputs, Future):
            try:
                outputs = outputs.result()
            except BaseException as error:
                raise StreamError(item.number, "run", error) from error
        return outputs if after is None else after(item.source, outputs)

    try:
        steps.start(
            [
                (_read, (iterable, before, prepared)),
                (_work, ("run", compute, prepared, computed)),
                (_work, ("after", finish, computed, finished)),
            ]
        )
        while (item := finished.get()) is not None:
            if item.failed is not None:
                raise item.failed
            value = item.value
            del item  # its source and outputs must not live while the caller works
            yield value
        if steps.is_left_behind:
            raise BackendError(
                "the stream was begun before this process was forked, and its threads stay behind: begin another one"
            )
    finally:
        if pool is not None and not steps.is_left_behind:
            pool.shutdown(wait=False, cancel_futures=True)
        steps.end()


def _read(iterable: Iterable[Any], before: Callable[[Any], Mapping[str, Any]] | None, out: Channel) -> None:
    """Reads and prepares items until there are no more, one fails, or nobody takes them."""
    number, step = 0, "read"
    items: Iterator[Any] = iter(())
    try:
        items = iter(iterable)
        for source in items:
            step = "before"
            value = source if before is None else before(source)
            if not out.put(_Item(number, source, value)):
                break
            number, step = number + 1, "read"
    except BaseException as error:  # it is raised in the thread that takes the results
        out.put(_failed(number, step, error))
    finally:
        out.close()
        close = getattr(items, "close", None)  # a generator's files and cameras
        if callable(close):
            try:
                close()
            except BaseException as error:  # all items were given: nobody is there to raise it to
                _LOG.warning("a stream's source failed to close: %s: %s", type(error).__name__, error)


def _work(step: str, work: Callable[[_Item], Any], source: Channel, out: Channel) -> None:
    """Passes each item on with what the step made of it; after one that failed, that one alone."""
    try:
        while (item := source.get()) is not None:
            if item.failed is None:
                try:
                    item.value = work(item)
                except BaseException as error:  # as above
                    item = _failed(item.number, step, error)
            if not out.put(item) or item.failed is not None:
                break
            del item
    finally:
        out.close()
        source.close(at_once=True)


def _failed(number: int, step: str, error: BaseException) -> _Item:
    if isinstance(error, StreamError) and error.item == number:  # a run that failed in a thread of its own
        return _Item(number, None, None, error)
    failure = StreamError(number, step, error)
    failure.__cause__ = error
    return _Item(number, None, None, failure)


_OPEN: WeakSet[Steps] = WeakSet()


@atexit.register
def _at_exit() -> None:
    for steps in list(_OPEN):
        steps.end(at_exit=True)


def _after_fork() -> None:
    for steps in list(_OPEN):
        steps.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
