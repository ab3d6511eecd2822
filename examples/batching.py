"""Batcher: joins requests that come at nearly the same time into one run along the batch axis."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebig import Session

Array = NDArray[Any]
Key = tuple[tuple[str, str, tuple[int, ...]], ...]


class Overloaded(Exception):
    """As many requests wait as may; this one is better sent again later, or elsewhere."""


@dataclass(eq=False)
class _Request:
    """Inputs whose first axis has ``rows``, and who waits for their outputs."""

    inputs: Mapping[str, Array]
    rows: int
    key: Key
    answer: asyncio.Future[dict[str, Array]]


class Batcher:
    """Runs requests, several in one run where the model's first axis is a batch for all inputs and outputs.

    A request waits until ``max_batch`` rows are there, but at most ``max_delay`` seconds longer than it must.
    """

    def __init__(self, session: Session, *, max_batch: int = 8, max_delay: float = 0.002, queue: int = 64) -> None:
        """Inside of a running event loop.

        Args:
            session: the loaded model.
            max_batch: rows of one run at most; 1 joins nothing.
            max_delay: seconds.
            queue: requests that may wait.
        """
        self._session, self._max_batch, self._max_delay, self._queue = session, max_batch, max_delay, queue
        self._batched = _has_batch_axis(session)
        self._waiting: list[_Request] = []
        self._arrived = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for a request's inputs.

        Raises:
            Overloaded: ``queue`` requests wait already.
            InputError, BackendError: as :meth:`edgebig.Session.run`.
        """
        if len(self._waiting) >= self._queue:
            raise Overloaded(f"{self._queue} requests wait already")
        answer: asyncio.Future[dict[str, Array]] = asyncio.get_running_loop().create_future()
        rows = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
        key = tuple(sorted((name, str(array.dtype), array.shape[1:]) for name, array in inputs.items()))
        # inputs of unlike first axes cannot be joined with others: they run alone, and the session judges them
        common = rows.pop() if self._batched and len(rows) == 1 else 0
        request = _Request(inputs, common, key, answer)
        self._waiting.append(request)
        self._arrived.set()
        try:
            return await answer
        finally:
            if request in self._waiting:  # who asked has given up
                self._waiting.remove(request)

    async def close(self) -> None:
        """Ends; who still waits is cancelled."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        for request in list(self._waiting):
            request.answer.cancel()

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            if self._waiting[0].rows and sum(r.rows for r in self._alike()) < self._max_batch and self._max_delay > 0:
                await asyncio.sleep(self._max_delay)
            if self._waiting:
                batch = self._alike()
                self._waiting = [request for request in self._waiting if request not in batch]
                await self._run(batch)

    def _alike(self) -> list[_Request]:
        """The oldest request and those that can run with it, ``max_batch`` rows at most."""
        first = self._waiting[0]
        chosen, rows = [first], first.rows
        for request in self._waiting[1:] if first.rows else []:
            if request.rows and request.key == first.key and rows + request.rows <= self._max_batch:
                chosen.append(request)
                rows += request.rows
        return chosen

    async def _run(self, batch: list[_Request]) -> None:
        try:
            if len(batch) == 1:
                outputs = await asyncio.wrap_future(self._session.run_async(batch[0].inputs))
                parts = [outputs]
            else:
                joined = {name: np.concatenate([r.inputs[name] for r in batch]) for name in batch[0].inputs}
                outputs = await asyncio.wrap_future(self._session.run_async(joined))
                ends = np.cumsum([request.rows for request in batch])[:-1]
                split = {name: np.split(array, ends) for name, array in outputs.items()}
                parts = [{name: pieces[i] for name, pieces in split.items()} for i in range(len(batch))]
        except Exception as error:  # whatever it is, those who asked must hear of it
            if len(batch) > 1:  # one client's number that the model does not know is no reason to fail the others
                for request in batch:
                    await self._run([request])
                return
            for request in batch:
                if not request.answer.done():
                    request.answer.set_exception(error)
            return
        for request, part in zip(batch, parts, strict=True):
            if not request.answer.done():
                request.answer.set_result(part)


def _has_batch_axis(session: Session) -> bool:
    """Whether the first axis of every input and output has one name."""
    firsts = {spec.shape[0] if spec.shape else 1 for spec in (*session.inputs, *session.outputs)}
    return len(firsts) == 1 and isinstance(next(iter(firsts)), str)
