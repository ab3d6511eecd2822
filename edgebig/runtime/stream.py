"""Stream: reading, preparing, running and finishing of successive items at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any

from edgebig.errors import StreamError, UsageError

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


def stream(
    iterable: Iterable[Any],
    run: Run,
    depth: int,
    before: Callable[[Any], Mapping[str, Any]] | None,
    after: Callable[[Any, dict[str, Any]], Any] | None,
    in_flight: int = 1,
) -> Generator[Any, None, None]:
    """What :meth:`Session.stream` gives; the arguments are checked at once, the threads begin with the first item.

    Raises:
        UsageError: ``depth`` or ``in_flight`` is below 1, or ``iterable`` is none.
    """
    if depth < 1 or in_flight < 1:
        raise UsageError(f"depth and in_flight must be 1 or more, found {depth} and {in_flight}")
    if not isinstance(iterable, Iterable):
        raise UsageError(f"a stream needs something to iterate over, found {type(iterable).__name__}")
    return _stream(iterable, run, depth, before, after, in_flight)


def _stream(
    iterable: Iterable[Any],
    run: Run,
    depth: int,
    before: Callable[[Any], Mapping[str, Any]] | None,
    after: Callable[[Any, dict[str, Any]], Any] | None,
    in_flight: int,
) -> Generator[Any, None, None]:
    # items wait for their turn with their runs under way, so that several of those keep the order
    prepared, computed, finished = Channel(depth), Channel(max(depth, in_flight - 1)), Channel(depth)
    channels = (prepared, computed, finished)
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

    steps: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        (_read, (iterable, before, prepared)),
        (_work, ("run", compute, prepared, computed)),
        (_work, ("after", finish, computed, finished)),
    ]
    threads = [Thread(target=step, args=given, name="edgebig-stream", daemon=True) for step, given in steps]
    try:
        for thread in threads:
            thread.start()
        while (item := finished.get()) is not None:
            if item.failed is not None:
                raise item.failed
            value = item.value
            del item  # its source and outputs must not live while the caller works
            yield value
    finally:
        for channel in channels:
            channel.close(at_once=True)
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        for thread in threads:
            thread.join(_PATIENCE)


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
        if close is not None:
            close()


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
