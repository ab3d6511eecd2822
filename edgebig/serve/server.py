"""The server: takes requests out of the slots, runs the session on arrays over them, and puts the outputs back."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic_ns
from typing import Any, cast

import numpy as np

from edgebig.errors import EdgebigError, InputError, UsageError
from edgebig.runtime import Session
from edgebig.runtime.shapes import output_shape
from edgebig.serve import layout as at
from edgebig.serve import segment as segments
from edgebig.serve.layout import Layout, Tensor
from edgebig.serve.slot import free, is_dead, reclaim
from edgebig.serve.waiting import Spin

Array = np.ndarray[Any, Any]
Run = Callable[[], Mapping[str, Array]]

_BEAT = 0.2
_WAIT = 200_000_000
_REMEMBERED = 16  # sets of shapes for each slot


class Server:
    """Serves a session through a segment, in the thread that calls :meth:`run` and in as many more as are asked for."""

    def __init__(
        self, session: Session, name: str, layout: Layout, *, mode: int = 0o600, spin_us: int = 300, workers: int = 1
    ) -> None:
        """Makes the segment; clients find it from now on.

        Args:
            session: what to serve; it stays the caller's to close.
            name: of the segment.
            layout: of :func:`edgebig.serve.layout.plan` for the session's inputs and outputs.
            mode: permissions of the segment's file.
            spin_us: microseconds for which an idle server looks for the next request instead of sleeping.
            workers: how many requests may run at once.

        Raises:
            UsageError: fewer slots than workers; or as :func:`edgebig.serve.segment.create`.
            OutputError, BackendError: as there.
        """
        if not 1 <= workers <= layout.slot_count:
            raise UsageError(f"{workers} workers never have work at {layout.slot_count} slots: give more --slots")
        self._session, self._name, self._workers = session, name, workers
        self._segment = segments.create(name, layout, mode)
        self._slots = [_Slot(self._segment, number) for number in range(layout.slot_count)]
        self._spin_ns = spin_us * 1000
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="edgebig-serve", daemon=True)

    def run(self, stop: Callable[[], bool]) -> None:
        """Serves until ``stop()``, which is asked after each request and a few times a second."""
        words = self._segment.words
        words.store64(at.HEARTBEAT, monotonic_ns())
        words.store32(at.STATE, at.SERVING)
        if not self._keeper.is_alive():
            self._keeper.start()
        ending = threading.Event()
        others = [
            # only one of them looks: the others would do it in vain
            threading.Thread(target=self._work, args=(ending.is_set, 0, number), name=f"edgebig-serve-{number}")
            for number in range(1, self._workers)
        ]
        for other in others:
            other.start()
        try:
            self._work(stop, self._spin_ns, 0)
        finally:
            ending.set()
            words.add32(at.BELL, 1)
            words.wake(at.BELL)
            for other in others:
                other.join()

    def _work(self, stop: Callable[[], bool], spin_ns: int, following: int) -> None:
        """Takes requests, beginning with the slot of that number, and runs them."""
        words, layout, spin = self._segment.words, self._segment.layout, Spin(spin_ns)
        where = layout.slots_offset, layout.slot_stride, layout.slot_count
        asked = len(layout.inputs) * at.ENTRY.size
        idle_since, look = monotonic_ns(), spin.look()
        while not stop():
            found = words.next_request(*where, following, asked, _WAIT, look)
            if found is None:
                look = 0
                continue
            number, start, written = found
            self._serve(self._slots[number], start, written)
            following = number + 1
            spin.learn(start - idle_since)
            idle_since, look = monotonic_ns(), spin.look()

    def close(self) -> None:
        """Takes the segment away; requests that wait are answered with ``SERVER_STOPPED``."""
        self._stop.set()
        if self._keeper.is_alive():
            self._keeper.join()
        words = self._segment.words
        words.store32(at.STATE, at.GONE)
        for slot in self._slots:
            if words.swap32(slot.state, at.REQUEST, at.RUNNING):
                slot.answer(at.SERVER_STOPPED, "the server was stopped", monotonic_ns())
        words.wake(at.RELEASED)
        segments.remove(self._name, self._segment)

    def _serve(self, slot: _Slot, start: int, written: bytes) -> None:
        status, text, ran, said = at.OK, "", 0, b""
        try:
            call = slot.prepare(self._session, written)
            begun = monotonic_ns()
            results = call.run()
            ran = monotonic_ns() - begun
            said, refused = slot.put(call, results)
            if refused:
                status, text, ran = at.OUTPUT_TOO_LARGE, refused, 0
        except InputError as error:
            status, text = at.BAD_INPUT, str(error)
        except EdgebigError as error:
            status, text = at.BACKEND_FAILED, str(error)
        except Exception as error:  # one request's trouble must not end the others' server
            status, text = at.BACKEND_FAILED, f"internal error: {type(error).__name__}: {error}"
        slot.answer(status, text, start, ran, said)

    def _keep(self) -> None:
        """Shows that the process lives, and frees the slots of clients that do not."""
        words, layout = self._segment.words, self._segment.layout
        while not self._stop.wait(_BEAT):
            words.store64(at.HEARTBEAT, monotonic_ns())
            for number in range(layout.slot_count):
                owner = words.load64(layout.slot(number))
                if owner not in (0, at.TAKEN_BACK) and is_dead(owner) and reclaim(self._segment, number, owner):
                    words.store64(at.RECLAIMED, words.load64(at.RECLAIMED) + 1)


@dataclass(frozen=True)
class _Call:
    """What runs for inputs of certain shapes.

    Attributes:
        feeds: the inputs, arrays over the slot.
        run: gives the outputs by name.
        bound: where every output has an array over the slot that the engine writes: these; otherwise nothing.
        said: their entries.
    """

    feeds: dict[str, Array]
    run: Run
    bound: tuple[tuple[str, Array], ...] = ()
    said: bytes = b""


class _Slot:
    """One slot, with the arrays over it for the shapes that came lately.

    What a client writes is read once, into the process's own memory, and checked there against the layout that the
    server has made: no size that stands in the segment is used.
    """

    def __init__(self, segment: segments.Segment, number: int) -> None:
        layout = segment.layout
        self.number, self.place = number, layout.slot(number)
        self.state = self.place + at.SLOT_STATE
        self._words, self._memory = segment.words, segment.memory
        self._inputs, self._outputs = layout.inputs, layout.outputs
        self._message = self.place + layout.message
        self._said = at.ENTRIES + len(self._inputs) * at.ENTRY.size
        self._calls: dict[bytes, _Call] = {}
        self._places: dict[tuple[str, at.Shape], tuple[Array, bytes]] = {}
        self._flags = [tensor.spec.name for tensor in self._inputs if tensor.spec.dtype == "bool"]

    def prepare(self, session: Session, written: bytes) -> _Call:
        """Runs the session on arrays over the inputs, of the shapes that the client wrote in their entries.

        Where the engine can, it reads and writes in the slot itself.

        Raises:
            InputError: a dtype, rank or size that does not fit.
        """
        call = self._calls.get(written)
        if call is None:
            feeds = {
                tensor.spec.name: self._view(tensor, _shape(tensor, written[i * at.ENTRY.size :]))
                for i, tensor in enumerate(self._inputs)
            }
            if len(self._calls) >= _REMEMBERED:
                self._calls.clear()
            call = self._calls[written] = self._bound(session, feeds) or _Call(feeds, partial(session.run, feeds))
        for name in self._flags:
            array = call.feeds[name]
            if array.size and array.view(np.uint8).max() > 1:
                raise InputError(f"input {name!r} is bool: its bytes must be 0 or 1")
        return call

    def _bound(self, session: Session, feeds: dict[str, Array]) -> _Call | None:
        """Runs on inputs and, where their shapes are known, outputs in the slot; ``None`` if the engine cannot."""
        shapes = {name: array.shape for name, array in feeds.items()}
        bound: dict[str, Array] = {}
        for tensor in self._outputs:
            shape = output_shape(tensor.spec, session.inputs, shapes)
            if shape is not None and math.prod(shape) * tensor.dtype.itemsize <= tensor.capacity:
                bound[tensor.spec.name] = self._view(tensor, shape)
        try:
            run = session.bind(shapes, buffers={**feeds, **bound}).run
        except UsageError:
            return None
        if len(bound) < len(self._outputs):
            return _Call(feeds, run)
        said = b"".join(at.entry(tensor.spec.dtype, bound[tensor.spec.name].shape) for tensor in self._outputs)
        return _Call(feeds, run, tuple(bound.items()), said)

    def put(self, call: _Call, results: Mapping[str, Array]) -> tuple[bytes, str]:
        """Has the outputs in the slot; returns their entries, and what is wrong with them, if something is."""
        for name, array in call.bound:
            if results[name] is not array:
                break
        else:
            if call.said:
                return call.said, ""
        entries = []
        for tensor in self._outputs:
            array = results[tensor.spec.name]
            key = (tensor.spec.name, array.shape)
            place = self._places.get(key)
            if place is None:
                refused = _does_not_fit(tensor, array)
                if refused:
                    return b"", refused
                if len(self._places) >= _REMEMBERED * len(self._outputs):
                    self._places.clear()
                place = self._view(tensor, array.shape), at.entry(tensor.spec.dtype, array.shape)
                self._places[key] = place
            if cast(object, array.base) is not self._memory:  # otherwise the engine has written it there
                np.copyto(place[0], array, casting="no")
            entries.append(place[1])
        return b"".join(entries), ""

    def answer(self, status: int, text: str, start: int, ran: int = 0, said: bytes = b"") -> None:
        """Hands the slot back to its client, or frees it where the client is gone.

        Args:
            status, text: what to say.
            start: when the request was taken, in nanoseconds of the monotonic clock.
            ran: nanoseconds that the model took.
            said: the outputs' entries.
        """
        message = text.encode()[: at.MESSAGE_SIZE - 1]
        if message:
            self._memory[self._message : self._message + len(message) + 1] = message + b"\0"
        if not self._words.answer(self.place, status, len(message), start, ran, self._said, said):
            self._words.store32(self.state, at.IDLE)  # DROPPED: nobody waits for it
            free(self._words, self.place)

    def _view(self, tensor: Tensor, shape: at.Shape) -> Array:
        return np.ndarray(shape, tensor.dtype, self._memory, self.place + tensor.offset)


def _shape(tensor: Tensor, written: bytes) -> at.Shape:
    spec = tensor.spec
    code, rank, *dims = at.ENTRY.unpack_from(written)
    size = dims.pop()
    if code != at.DTYPES[spec.dtype]:
        raise InputError(f"input {spec.name!r} is {spec}, found dtype {at.NAMES.get(code, f'number {code}')}")
    if rank != len(spec.shape):
        raise InputError(f"input {spec.name!r} has {len(spec.shape)} axes ({spec}), found {rank}")
    shape = tuple(dims[:rank])
    text = "x".join(map(str, shape))
    for axis, (found, dim, most) in enumerate(zip(shape, spec.shape, tensor.largest, strict=True)):
        if isinstance(dim, int) and found != dim:
            raise InputError(f"axis {axis} of input {spec.name!r} must be {dim} ({spec}), found {found} ({text})")
        if not 0 <= found <= most:
            raise InputError(
                f"axis {axis} of input {spec.name!r} may be 0 to {most} here, found {found} ({text}): "
                "serve it with larger --shapes"
            )
    if size != math.prod(shape) * tensor.dtype.itemsize:
        raise InputError(f"input {spec.name!r} of shape {text} has another size than the {size} bytes that were sent")
    return shape


def _does_not_fit(tensor: Tensor, array: Array) -> str:
    spec = tensor.spec
    found = f"{array.dtype} {'x'.join(map(str, array.shape))}"
    if array.dtype != tensor.dtype or array.ndim > at.MAX_RANK:
        return f"output {spec.name!r} is {spec} by the manifest, the model gave {found}"
    if array.nbytes > tensor.capacity:
        return (
            f"output {spec.name!r} is {found}, {array.nbytes} bytes; the slot has room for {tensor.capacity}: "
            f"serve it with --shapes {spec.name}:{'x'.join(map(str, array.shape))}"
        )
    return ""
