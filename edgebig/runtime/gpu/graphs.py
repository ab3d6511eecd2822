"""Which runs get an execution context and a CUDA graph of their own, and for how long they keep them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A few values by key; where it is full, the one unused for longest goes, and is told so."""

    def __init__(self, limit: int, on_evict: Callable[[V], object]) -> None:
        if limit < 1:
            raise ValueError(f"the limit must be 1 or more, found {limit}")
        self._limit, self._on_evict = limit, on_evict
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, which counts as used by that."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def make_room(self) -> None:
        """Evicts one value where it is full, so that what the next one needs is free before it is made."""
        if len(self._values) >= self._limit:
            _, oldest = self._values.popitem(last=False)
            self._on_evict(oldest)

    def put(self, key: K, value: V) -> None:
        """Keeps a value. The key must be new."""
        self.make_room()
        self._values[key] = value

    def clear(self) -> None:
        """Evicts all."""
        while self._values:
            _, value = self._values.popitem(last=False)
            self._on_evict(value)

    def __len__(self) -> int:
        return len(self._values)


class SeenBefore(Generic[K]):
    """Tells whether a key was seen lately, so that what happens once costs no context and no graph."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._keys: OrderedDict[K, None] = OrderedDict()

    def __call__(self, key: K) -> bool:
        """Whether it was among the last keys, and remembers it."""
        if key in self._keys:
            self._keys.move_to_end(key)
            return True
        self._keys[key] = None
        if len(self._keys) > self._limit:
            self._keys.popitem(last=False)
        return False
