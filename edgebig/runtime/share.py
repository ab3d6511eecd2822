"""Several models on one device: who runs first, and how much memory they may take together."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from threading import Condition, get_ident
from time import monotonic
from typing import Any, SupportsFloat, SupportsIndex
from weakref import WeakSet

from edgebig.bundle import Bundle
from edgebig.errors import BackendError, DeadlineError, MissingExtra, UsageError
from edgebig.runtime.choose import Candidate


class SharedDevice:
    """A device that several sessions share. Made by :func:`share`, given to :func:`edgebig.load` as ``device``.

    Attributes:
        memory: the most bytes that its models may hold together, or ``None``.
        used: bytes that they hold now.
    """

    def __init__(self, memory: int | None = None, slots: int = 1) -> None:
        """As :func:`share`."""
        if not isinstance(slots, SupportsIndex) or slots < 1:
            raise UsageError(f"slots must be 1 or more, found {slots!r:.40}")
        if memory is not None and (not isinstance(memory, SupportsFloat) or memory < 1):
            raise UsageError(f"memory must be 1 byte or more, found {memory!r:.40}")
        self.memory = memory
        self._slots = slots
        self._number = count()
        self._forked()
        _DEVICES.add(self)

    @property
    def used(self) -> int:
        """Bytes that the open sessions hold: what their backends say, else as estimated."""
        with self._changed:
            return sum(size for _, size in self._held.values())

    def reserve(self, name: str, size: int, free: int | None = None) -> Reservation:
        """Sets memory aside for a model that is about to be loaded.

        Args:
            name: of the bundle, for messages.
            size: bytes that it will take.
            free: bytes that the device has left, where it says so.

        Raises:
            BackendError: it does not fit.
        """
        with self._changed:
            used = sum(held for _, held in self._held.values())
            if self.memory is not None and used + size > self.memory:
                others = ", ".join(f"{other} {_mb(held)}" for other, held in self._held.values())
                raise BackendError(
                    f"{name} needs {_mb(size)} and {_mb(max(0, self.memory - used))} of the {_mb(self.memory)} that "
                    f"the models may take are left{f' beside {others}' if others else ''}: close a session, raise "
                    "memory, or compile the model in a smaller format"
                )
            if free is not None and size > free:
                raise BackendError(
                    f"{name} needs {_mb(size)} and the device has {_mb(free)} free: close what else uses it, "
                    "or compile the model in a smaller format"
                )
            number = next(self._number)
            self._held[number] = (name, size)
        return Reservation(self, number, name)

    @contextmanager
    def turn(self, priority: int, deadline: float | None) -> Iterator[None]:
        """A slot to run in: at once where one is free, else after those of higher priority and those that came before.

        A thread that has one already (a signal handler came in between) goes on at once.

        Raises:
            DeadlineError: none came until ``deadline``, on the clock of ``time.monotonic``.
        """
        me = get_ident()
        self._enter(me, priority, deadline)
        try:
            yield
        finally:
            self._leave(me)

    def _enter(self, me: int, priority: int, deadline: float | None) -> None:
        with self._changed:
            if self._inside[me] == 0:
                self._wait_for_turn((-priority, next(self._number)), deadline)
            self._inside[me] += 1

    def _wait_for_turn(self, ticket: tuple[int, int], deadline: float | None) -> None:
        heapq.heappush(self._waiting, ticket)
        try:
            while True:
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    raise DeadlineError("no turn on the shared device in time: other models run: raise timeout")
                if self._free and self._waiting[0] == ticket:
                    break
                self._changed.wait(left)
            self._free -= 1
        finally:  # Ctrl-C too: a ticket that stays would keep all others waiting
            self._waiting.remove(ticket)
            heapq.heapify(self._waiting)
            self._changed.notify_all()

    def _leave(self, me: int) -> None:
        with self._changed:
            self._inside[me] -= 1
            if self._inside[me] == 0:
                del self._inside[me]
                self._free += 1
                self._changed.notify_all()

    def resize(self, number: int, size: int) -> None:
        """What a model turned out to hold; 0 when it is closed."""
        with self._changed:
            if number in self._held and size:
                self._held[number] = (self._held[number][0], size)
            else:
                self._held.pop(number, None)

    def _forked(self) -> None:
        """The state at the beginning, and in the child of a fork, which has no other thread and no engine."""
        self._held: dict[int, tuple[str, int]] = {}
        self._changed = Condition()
        self._free = self._slots
        self._waiting: list[tuple[int, int]] = []
        self._inside: Counter[int] = Counter()


class Reservation:
    """Memory set aside for one model."""

    def __init__(self, device: SharedDevice, number: int, name: str) -> None:
        self._device, self._number, self._name = device, number, name

    def measured(self, size: int) -> None:
        """Takes what the backend says that it holds in place of the estimate.

        Raises:
            BackendError: that is more than there is room for; the reservation is released.
        """
        device = self._device
        with device._changed:
            self.release()
            fits = device.reserve(self._name, size)
            self._number = fits._number

    def release(self) -> None:
        """Gives the memory back."""
        self._device.resize(self._number, 0)


class Place:
    """One session's place on a shared device."""

    def __init__(self, device: SharedDevice, priority: int) -> None:
        """A place of that priority.

        Raises:
            UsageError: ``priority`` is no number.
        """
        if not isinstance(priority, SupportsFloat):
            raise UsageError(f"priority must be a number, found {priority!r:.40}")
        self.device, self.priority = device, priority

    def turn(self, deadline: float | None) -> Any:
        """As :meth:`SharedDevice.turn`."""
        return self.device.turn(self.priority, deadline)


def share(memory: int | None = None, slots: int = 1) -> SharedDevice:
    """A device for several sessions: ``load(path, device=device, priority=10)``.

    Runs of the session with the highest priority go first; a run that has begun is not interrupted.

    Args:
        memory: the most bytes that the models may hold together; a load beyond is refused. On a GPU that is what the
            backend says that it holds, on a CPU the files of the graph, which are mapped, and the activations at the
            largest shapes, as the manifest estimates them. By default there is no limit but the device's.
        slots: how many runs take place at a time.

    Raises:
        UsageError: ``memory`` or ``slots`` is below 1.
    """
    return SharedDevice(memory, slots)


def estimated_memory(bundle: Bundle, part: str | None, candidate: Candidate) -> int:
    """Bytes that a candidate will hold: its file and those named after it (a graph's weights), and the activations."""
    files = bundle.manifest.files
    size = sum(file.bytes for name, file in files.items() if name.startswith(candidate.file))
    return size + bundle.part(part).sizes.get("activation_bytes", 0)


def free_memory(candidate: Candidate, cuda: Any = None) -> int | None:
    """Bytes that the GPU has free, for a candidate that runs there; ``None`` where it does not say.

    Args:
        candidate: what will be loaded.
        cuda: the module ``cuda.bindings.runtime``; by default the installed one.
    """
    if candidate.backend == "onnxruntime-cpu":
        return None
    if cuda is None:
        from edgebig.runtime.gpu.cuda import import_cuda

        try:
            cuda = import_cuda()
        except (MissingExtra, BackendError):
            return None
    try:
        error, free, _ = cuda.cudaMemGetInfo()
    except (RuntimeError, OSError):  # cuda-python 12 where libcuda.so is missing
        return None
    return int(free) if int(error) == 0 else None


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 or not size else f"{size / 1e3:.1f} kB"


_DEVICES: WeakSet[SharedDevice] = WeakSet()


def _after_fork() -> None:
    for device in list(_DEVICES):
        device._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
