"""A pool: a few things that one thread uses at a time, made when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Lock
from typing import Generic, TypeVar

from edgebig.errors import BackendError
from edgebig.runtime.backend import CLOSED

T = TypeVar("T")


class Pool(Generic[T]):
    """At most ``limit`` things. Whoever finds none free waits; the one used last is given first, for it is warm."""

    def __init__(self, make: Callable[[], T], destroy: Callable[[T], object], limit: int) -> None:
        if limit < 1:
            raise ValueError(f"the limit must be 1 or more, found {limit}")
        self._make, self._destroy, self._limit = make, destroy, limit
        self._free: list[T] = []
        self._made = 0
        self._closed = False
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._waiting = 0

    def take(self) -> T:
        """A free one, a new one, or the next that becomes free.

        Raises:
            BackendError: the pool is closed.
            Exception: a new one cannot be made, and no other is in use that one could wait for.
        """
        with self._lock:
            while True:
                if self._free:
                    return self._free.pop()
                if self._closed:
                    raise BackendError(CLOSED)
                if self._made < self._limit:
                    self._made += 1
                    break
                self._waiting += 1
                try:
                    self._changed.wait()
                finally:
                    self._waiting -= 1
        try:
            return self._make()
        except Exception:
            with self._changed:
                self._made -= 1
                self._changed.notify()
                if self._made == 0 or self._closed:
                    raise
                # others are in use: their number is what fits the device
                self._limit = self._made
        return self.take()

    def give(self, item: T) -> None:
        """Gives one back."""
        with self._lock:
            if not self._closed:
                self._free.append(item)
                if self._waiting:
                    self._changed.notify()
                return
        self.drop(item)

    def drop(self, item: T) -> None:
        """Destroys one that was taken: it is of no use any more."""
        try:
            self._destroy(item)
        finally:
            with self._changed:
                self._made -= 1
                self._changed.notify_all()

    def close(self) -> bool:
        """Destroys those that are free, and each other when it is given back. Whether none is left."""
        with self._changed:
            self._closed = True
            free, self._free = self._free, []
            self._changed.notify_all()
        for item in free:
            self.drop(item)
        return self.is_empty

    @property
    def is_empty(self) -> bool:
        """Whether it is closed and nothing of it is left."""
        with self._changed:
            return self._closed and self._made == 0
