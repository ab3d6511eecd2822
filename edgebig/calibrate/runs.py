"""Runs: brings samples through the graph and their values into the statistics, several at once."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numpy as np

from edgebig.calibrate.checkpoint import Checkpoint, Halves, Progress
from edgebig.calibrate.data.samples import Sample
from edgebig.calibrate.feedback import Feedback
from edgebig.calibrate.probe import Probes
from edgebig.calibrate.statistics import TensorStatistics
from edgebig.calibrate.tally import Tally, rectified, tally
from edgebig.errors import CalibrationError
from edgebig.graph import Executor

Array = np.ndarray[Any, Any]
Result = TypeVar("Result")


class Runs:
    """Runs samples and counts their values.

    A sample's values are counted after all of them were found free of NaN, so that one that fails leaves no
    trace; only where a sample takes several runs may the first of them have been counted by then.

    Attributes:
        finished: numbers of the samples that the statistics hold.
    """

    def __init__(
        self,
        executor: Executor,
        probes: Probes,
        feedback: Feedback,
        groups: Sequence[Sequence[str]],
        halves: Halves,
        progress: Progress,
        workers: int,
        counters: int,
    ) -> None:
        """Starts the threads.

        Args:
            groups: tensors that one run hands out.
            halves: statistics over the samples of even, and over those of odd number.
            progress: what ``halves`` hold already; sample numbers begin at 1.
            workers: samples that run at once; 1 where a state is carried.
            counters: threads that count the tensors of one sample.
        """
        self._executor, self._probes, self._feedback = executor, probes, feedback
        self._groups, self._halves, self._workers = groups, halves, workers
        self.finished = progress.finished()
        self._saved = len(self.finished)
        self._failed = self._torn = False
        self._state = progress.state
        self._rectified: dict[str, list[str]] = {}
        for after, source in probes.rectified.items():
            self._rectified.setdefault(source, []).append(after)
        self._reductions = [output for names in probes.extremes.values() for output in names]
        self._locks = {name: threading.Lock() for name in halves[0]}
        self._pool = ThreadPoolExecutor(workers)
        self._parts = counters
        self._counters = ThreadPoolExecutor(counters) if counters > 1 else None
        self._pending: deque[Future[None]] = deque()

    def sample(self, number: int, where: str, sample: Sample) -> None:
        """Runs a sample from the data, and those that follow from its outputs, now or soon."""
        self._pending.append(self._pool.submit(self._all, number, where, sample))
        # one more than run, so that no core waits for a sample to be read
        while len(self._pending) > self._workers + 1:
            self._next()

    def finish(self) -> None:
        """Waits for all samples; the error of the first that failed is raised here, or in :meth:`sample`."""
        while self._pending:
            self._next()

    def close(self) -> None:
        """Waits for samples that run; those that have not begun are given up."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._counters is not None:
            self._counters.shutdown()

    def save(self, checkpoint: Checkpoint) -> None:
        """Saves what is new while no sample runs, unless a sample is in by half."""
        if len(self.finished) > self._saved and not self._torn:
            self._saved = len(self.finished)
            checkpoint.save(self._halves, Progress.of(self.finished, self._state))

    def _next(self) -> None:
        self._pending[0].result()
        self._pending.popleft()

    def _all(self, number: int, where: str, sample: Sample) -> None:
        if self._failed:
            # it would begin from the state that the failed sample left
            return
        statistics = self._halves[number % 2]
        following: Sample | None = self._feedback.begin(where, sample)
        counted = False
        try:
            while following is not None:
                outputs: Sample = {}
                seen: dict[str, Tally] = {}
                for index, group in enumerate(self._groups):
                    given, found = self._once(where, following, group, statistics, first=index == 0)
                    outputs.update(given)
                    seen.update(found)
                    counted = True
                    for name, tallied in found.items():
                        self._take(statistics, name, tallied)
                for name, sources in self._probes.derived.items():
                    low = min(seen[s].smallest for s in sources)
                    high = max(seen[s].largest for s in sources)
                    self._take(statistics, name, Tally(low, high))
                following = self._feedback.follow(following, outputs)
        except BaseException:
            self._failed, self._torn = True, self._torn or counted
            raise
        self._state = self._feedback.snapshot()
        self.finished.add(number)

    def _once(
        self,
        where: str,
        sample: Sample,
        group: Sequence[str],
        statistics: Mapping[str, TensorStatistics],
        *,
        first: bool,
    ) -> tuple[Sample, dict[str, Tally]]:
        """One run: outputs to feed back, where it is the sample's first, and what was learnt of each tensor."""
        wanted = [name for name in group if name not in sample]
        if first:
            wanted += [*self._reductions, *(n for n in self._feedback.outputs if n not in wanted)]
        # ONNX Runtime takes an empty list for all outputs
        values = self._executor.run_in_place(sample, wanted) if wanted else {}
        values.update({name: sample[name] for name in group if name in sample})
        found: dict[str, Tally] = {}
        if first:
            found.update({name: _reduced(values, names) for name, names in self._probes.extremes.items()})
        for each in self._spread(lambda name: self._tallies(name, values[name], statistics), group):
            found.update(each)
        for name, tallied in found.items():
            if math.isnan(tallied.smallest) or math.isnan(tallied.largest):
                raise CalibrationError(f"calibration: the tensor {name!r} became NaN on {where}: check that sample")
        return ({name: values[name] for name in self._feedback.outputs} if first else {}), found

    def _tallies(self, name: str, values: Array, statistics: Mapping[str, TensorStatistics]) -> dict[str, Tally]:
        """Of a tensor, and of what a Relu makes of it."""
        found = {name: tally(values, statistics[name].histogram)}
        for after in self._rectified.get(name, ()):
            found[after] = rectified(values, found[name], statistics[after].histogram)
        return found

    def _take(self, statistics: Mapping[str, TensorStatistics], name: str, tallied: Tally) -> None:
        with self._locks[name]:
            statistics[name].take(tallied)

    def _spread(self, function: Callable[[str], Result], names: Sequence[str]) -> list[Result]:
        """The function's result for each name, over the counting threads, a few long tasks rather than many."""
        if self._counters is None:
            return [function(name) for name in names]
        step = self._parts
        tasks = [
            self._counters.submit(lambda part: [function(name) for name in part], names[start::step])
            for start in range(step)
        ]
        results: list[Result | None] = [None] * len(names)
        for start, task in enumerate(tasks):
            results[start::step] = task.result()
        return cast("list[Result]", results)


def _reduced(values: Mapping[str, Array], names: tuple[str, str, str]) -> Tally:
    smallest, largest, total = (float(values[name]) for name in names)
    if math.isfinite(smallest) and math.isfinite(largest) and math.isnan(total):
        smallest = math.nan
    return Tally(smallest, largest)
