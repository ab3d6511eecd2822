"""A client in Python, for processes that have edgebig; examples/c has the one for all others."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic_ns
from types import TracebackType
from typing import Any

import numpy as np

from edgebig.errors import BackendError, InputError
from edgebig.serve import layout as at
from edgebig.serve import segment as segments
from edgebig.serve.layout import Tensor
from edgebig.serve.slot import claim, owner_word, release
from edgebig.serve.waiting import Spin, wait_until_served

Array = np.ndarray[Any, Any]

_SLICE = 100_000_000
STALE_NS = 2_000_000_000
"""Without a sign of life for so long, the server is taken for stuck."""


class ServerGone(BackendError):
    """The server has ended or stands still: make a new :class:`Client` when it is back."""


class ServerTimeout(BackendError):
    """No slot, or no answer, within the time given."""


class Client:
    """A model that another process serves. Several threads may use one; after a fork make a new one.

    Attributes:
        inputs, outputs: names, dtypes and shapes, as a session has them; axes of any size are ``None``.
    """

    def __init__(self, name: str, *, timeout: float = 5.0, spin_us: int = 300) -> None:
        """Connects to the server of that name.

        Args:
            name: what the server was started with.
            timeout: seconds to wait for a server that is just starting.
            spin_us: microseconds for which a thread looks for its answer before it sleeps.

        Raises:
            UsageError: not a name.
            BackendError: no such server, no right, another version; or the compiled module is missing.
            ServerGone: the segment is a dead server's.
        """
        self._name = name
        self._segment = segments.attach(name)
        if not self._segment.is_served() or not wait_until_served(self._segment, timeout):
            self._segment.close()
            raise ServerGone(_gone(name))
        layout = self._segment.layout
        self.inputs = [tensor.spec for tensor in layout.inputs]
        self.outputs = [tensor.spec for tensor in layout.outputs]
        self._owner = owner_word(self._segment.header.pid_namespace)
        self._pid = os.getpid()
        self._spin = Spin(spin_us * 1000)
        self._sequence, self._lock = 0, threading.Lock()
        self._before, self._last = 0, 1

    def run(self, inputs: Mapping[str, Array], timeout: float = 10.0) -> dict[str, Array]:
        """Runs the model once: copies the inputs into a slot, and the outputs out of it.

        Args:
            inputs: an array for each input.
            timeout: seconds, for a free slot and the answer together.

        Raises:
            InputError: an array does not fit, here or in the server's eyes.
            BackendError: the engine failed.
            ServerGone, ServerTimeout: see there.
        """
        end = monotonic_ns() + int(timeout * 1e9)
        with self.slot(timeout) as slot:
            if inputs.keys() != {spec.name for spec in self.inputs}:
                raise InputError(f"the model takes {', '.join(map(str, self.inputs))}; found {', '.join(inputs)}")
            for name, array in inputs.items():
                slot.put(name, array)
            slot.run(max(end - monotonic_ns(), 0) / 1e9)
            return {spec.name: slot.output(spec.name).copy() for spec in self.outputs}

    @contextmanager
    def slot(self, timeout: float = 10.0) -> Iterator[Slot]:
        """A slot of one's own, to write inputs where the server reads them and to read outputs where it wrote them.

        Raises:
            ServerGone, ServerTimeout: see there.
        """
        number = self._claim(timeout)
        try:
            yield Slot(self, self._segment, number)
        finally:
            if self._segment.file >= 0:
                release(self._segment, number)

    def close(self) -> None:
        """Lets the segment go."""
        self._segment.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _claim(self, timeout: float) -> int:
        if os.getpid() != self._pid:
            raise BackendError("this process was forked off after the client was made: make another Client in it")
        if self._segment.file < 0:
            raise BackendError("the client is closed: make another one")
        words, end = self._segment.words, monotonic_ns() + int(timeout * 1e9)
        while True:
            released = words.load32(at.RELEASED)
            if words.load32(at.STATE) != at.SERVING:
                raise ServerGone(_gone(self._name))
            first, count = self._before, self._segment.layout.slot_count
            for number in ((first + i) % count for i in range(count)):
                if claim(self._segment, number, self._owner):
                    self._before, self._last = self._last, number  # two in turn: docs/shared-memory.md says why
                    return number
            left = end - monotonic_ns()
            if left <= 0:
                raise ServerTimeout(f"all slots of {self._name!r} are taken: serve it with more --slots")
            words.wait_while(at.RELEASED, at.WANTING, released, min(left, _SLICE), 0)
            self.check_server()

    def check_server(self) -> None:
        """Raises :class:`ServerGone` if the server has ended or has shown no sign of life for two seconds."""
        words = self._segment.words
        if words.load32(at.STATE) == at.GONE or not self._segment.is_served():
            raise ServerGone(_gone(self._name))
        silent = monotonic_ns() - words.load64(at.HEARTBEAT)
        if silent > STALE_NS:
            raise ServerGone(f"the server {self._name!r} has stood still for {silent / 1e9:.1f} s: look at its process")

    def next_sequence(self) -> int:
        """A number for the next request."""
        with self._lock:
            self._sequence += 1
            return self._sequence

    @property
    def spin(self) -> Spin:
        """How long to look for answers."""
        return self._spin


class Slot:
    """A slot while its client has it. Its arrays must not be used afterwards."""

    def __init__(self, client: Client, segment: segments.Segment, number: int) -> None:
        self._client, self._segment = client, segment
        self._place = segment.layout.slot(number)
        self._tensors = {tensor.spec.name: tensor for tensor in segment.layout.inputs}
        self._results = {tensor.spec.name: tensor for tensor in segment.layout.outputs}
        self._written: set[str] = set()

    def input(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """The array of an input, to write into.

        Args:
            name: the input's.
            shape: of this call; by default the largest that there is room for.

        Raises:
            InputError: no such input, or no room.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise InputError(f"the model has no input {name!r}: its inputs are {', '.join(self._tensors)}")
        wanted = tensor.largest if shape is None else shape
        fits = len(wanted) <= at.MAX_RANK and min(wanted, default=0) >= 0
        said = at.entry(tensor.spec.dtype, wanted) if fits else None
        if said is None or math.prod(wanted) * tensor.dtype.itemsize > tensor.capacity:
            found, most = ("x".join(map(str, s)) for s in (wanted, tensor.largest))
            raise InputError(f"input {name!r} has room for {most}, found {found}: serve it with larger --shapes")
        start = self._place + tensor.entry
        self._segment.memory[start : start + at.ENTRY.size] = said
        self._written.add(name)
        return np.ndarray(wanted, tensor.dtype, self._segment.memory, self._place + tensor.offset)

    def put(self, name: str, array: Array) -> None:
        """Copies an array into an input.

        Raises:
            InputError: no such input, another dtype, or no room.
        """
        place = self.input(name, np.shape(array))
        if getattr(array, "dtype", None) != place.dtype:
            found = getattr(array, "dtype", type(array).__name__)
            raise InputError(f"input {self._tensors[name].spec} was given as {found}: convert it with .astype")
        np.copyto(place, array, casting="no")

    def run(self, timeout: float = 10.0) -> None:
        """Has the model run on what was written.

        Raises:
            InputError: an input was not written, or does not fit.
            BackendError: the engine failed.
            ServerGone, ServerTimeout: see there.
        """
        missing = [name for name in self._tensors if name not in self._written]
        if missing:
            raise InputError(f"input {missing[0]!r} was not written")
        words, place, spin = self._segment.words, self._place, self._client.spin
        sequence, start = self._client.next_sequence(), monotonic_ns()
        end = start + int(timeout * 1e9)
        words.store64(place + at.SEQUENCE, sequence)
        words.store64(place + at.SUBMITTED, start)
        words.store32(place + at.SLOT_STATE, at.REQUEST)
        words.add32(at.BELL, 1)
        if words.load32(at.SLEEPING):
            words.wake(at.BELL)
        while True:
            now = monotonic_ns()
            left, look = min(max(end - now, 0), _SLICE), spin.look(now - start)
            state = words.wait_until(place + at.SLOT_STATE, place + at.WAITING, at.DONE, left, look)
            if state == at.DONE:
                break
            self._client.check_server()
            if monotonic_ns() >= end:
                raise ServerTimeout(
                    f"no answer within {timeout:.2g} s: the model takes longer, or others are before it"
                )
        spin.learn(monotonic_ns() - start)
        self._check_answer(sequence)

    def output(self, name: str) -> Array:
        """The array of an output, of the shape that the server wrote.

        Raises:
            InputError: no such output.
            BackendError: what stands there does not fit.
        """
        tensor = self._results.get(name)
        if tensor is None:
            raise InputError(f"the model has no output {name!r}: its outputs are {', '.join(self._results)}")
        shape = self._answered_shape(tensor)
        array = np.ndarray(shape, tensor.dtype, self._segment.memory, self._place + tensor.offset)
        array.flags.writeable = False
        return array

    def _answered_shape(self, tensor: Tensor) -> at.Shape:
        code, rank, *dims = at.ENTRY.unpack_from(self._segment.memory, self._place + tensor.entry)
        shape = tuple(dims[: min(rank, at.MAX_RANK)])
        fits = code == at.DTYPES[tensor.spec.dtype] and rank <= at.MAX_RANK and min(shape, default=0) >= 0
        if not fits or math.prod(shape) * tensor.dtype.itemsize > tensor.capacity:
            raise BackendError(f"the server's output {tensor.spec.name!r} does not fit its slot: it is damaged")
        return shape

    def _check_answer(self, sequence: int) -> None:
        words, place = self._segment.words, self._place
        answered, status = words.load64(place + at.ANSWERED), words.load32(place + at.STATUS)
        if answered != sequence:
            raise BackendError(f"the server answered request {answered}, this was {sequence}: the slot is damaged")
        if status == at.OK:
            return
        start = place + self._segment.layout.message
        length = min(words.load32(place + at.MESSAGE_LENGTH), at.MESSAGE_SIZE)
        text = self._segment.memory[start : start + length].decode(errors="ignore")
        if status == at.SERVER_STOPPED:
            raise ServerGone(text)
        raise InputError(text) if status == at.BAD_INPUT else BackendError(text)


def _gone(name: str) -> str:
    return f"the server {name!r} is gone: start 'edgebig serve BUNDLE --shm {name}' again, then make another Client"
