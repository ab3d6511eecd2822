"""Runs the samples through the graph once and keeps the statistics of each tensor."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from edgebig.calibrate.checkpoint import Checkpoint
from edgebig.calibrate.data.samples import Sample, Samples
from edgebig.calibrate.feedback import Feedback, NoFeedback
from edgebig.calibrate.fetch import bytes_on, cores, in_groups, too_large
from edgebig.calibrate.methods import Method, MinMax
from edgebig.calibrate.probe import Probes, with_probes
from edgebig.calibrate.ranges import Range, Ranges
from edgebig.calibrate.statistics import TensorStatistics
from edgebig.errors import CalibrationError
from edgebig.graph import Executor, Graph

Array = np.ndarray[Any, Any]
Tick = Callable[[int], None]

MEMORY = 128 << 20
"""Bytes of activations that are alive at once, unless a single tensor is larger."""


@dataclass(frozen=True)
class Collected:
    """Statistics of each tensor over all samples.

    Attributes:
        statistics: by tensor name.
        halves: the same over the first, third, fifth … sample, and over the others.
        samples: number of samples that were run.
        source: what the samples were.
    """

    statistics: Mapping[str, TensorStatistics]
    halves: tuple[Mapping[str, TensorStatistics], Mapping[str, TensorStatistics]]
    samples: int
    source: str

    def ranges(self, method: Method) -> Ranges:
        """The range of each tensor by a method; of those without a histogram by their extremes."""
        found = {name: range_of(kept, method) for name, kept in self.statistics.items()}
        return Ranges(found, self.samples, method.name, self.source)


def collect(
    graph: Graph,
    tensors: Sequence[str],
    samples: Samples | Iterable[tuple[str, Sample]],
    source: str,
    *,
    counted: Sequence[str] = (),
    memory: int = MEMORY,
    tick: Tick | None = None,
    feedback: Feedback | None = None,
    checkpoint: Checkpoint | None = None,
) -> Collected:
    """Statistics of ``tensors`` over all samples, in one pass.

    Each core runs samples of its own in one thread and counts what they give: that keeps all cores
    busy, where a run spread over them would leave each waiting for the others. Only the values of
    samples that run are alive, however many samples there are. Where those of one do not fit in
    ``memory``, the extremes of tensors without a histogram are reduced inside the graph, and the others
    take several runs. With a state to carry, samples run one after the other.

    Args:
        graph: a float32 graph.
        tensors: names of float tensors of its main graph.
        samples: pairs of where a sample comes from and the sample.
        source: what the samples are, for the manifest.
        counted: those of ``tensors`` whose histogram is kept.
        memory: bytes of values that are alive at once, unless a single tensor is larger.
        tick: called after each sample with the number run so far.
        feedback: carries outputs of one run into the next, for models with state.
        checkpoint: where the statistics are kept every few seconds and at the end; samples that it has
            already are read, but not run.

    Raises:
        CalibrationError: no samples, or a tensor became NaN on one; the first of the graph is named.
    """
    feedback = feedback or NoFeedback()
    located = iter(samples)
    first = next(located, None)
    if first is None:
        raise CalibrationError(f"calibration: no samples in {source}: give at least one")
    sizes = bytes_on(graph, tensors, first[1])
    reduced = too_large({name: size for name, size in sizes.items() if name not in set(counted)}, memory)
    observed, probes = with_probes(graph, tensors, counted, feedback.outputs, reduced)
    groups = in_groups({name: sizes[name] for name in probes.values}, memory)
    halves = tuple({n: TensorStatistics(counted=n in set(counted)) for n in tensors} for _ in range(2))
    done = 0
    if checkpoint is not None:
        done, state = checkpoint.load(halves)
        feedback.restore(state)
    count = 0
    free = cores()
    stateless = isinstance(feedback, NoFeedback)
    largest = max(sum(sizes[name] for name in group) for group in groups)
    workers = max(1, min(free, memory // max(largest, 1))) if stateless else 1
    with Executor(observed, "all", free - workers + 1) as executor, ThreadPoolExecutor(workers) as pool:
        run = _Run(executor, pool, workers, probes, feedback, groups)
        for count, (where, sample) in enumerate(chain([first], located), start=1):
            if count > done:
                run.sample(where, sample, halves[count % 2])
            if tick is not None:
                tick(count)
            if checkpoint is not None and count > done and checkpoint.is_due():
                run.finish()
                checkpoint.save(halves, count, feedback.snapshot())
        run.finish()
    if checkpoint is not None and count > done:
        checkpoint.save(halves, count, feedback.snapshot())
    for half in halves:
        _derive(half, probes)
    return Collected({name: _merged(halves, name) for name in tensors}, (halves[0], halves[1]), count, source)


class _Run:
    """Runs samples and counts their values, several at once where no state is carried between them."""

    def __init__(
        self,
        executor: Executor,
        pool: ThreadPoolExecutor,
        workers: int,
        probes: Probes,
        feedback: Feedback,
        groups: Sequence[Sequence[str]],
    ) -> None:
        self._executor, self._pool, self._workers, self._probes = executor, pool, workers, probes
        self._feedback, self._groups = feedback, groups
        self._reductions = [output for names in probes.extremes.values() for output in names]
        names = [*probes.extremes, *probes.values, *probes.derived]
        self._locks = {name: threading.Lock() for name in names}
        self._pending: deque[Future[None]] = deque()

    def sample(self, where: str, sample: Sample, statistics: Mapping[str, TensorStatistics]) -> None:
        """Runs a sample from the data, and those that follow from its outputs, now or soon."""
        self._pending.append(self._pool.submit(self._all, where, sample, statistics))
        # one more than run, so that no core waits for a sample to be read
        while len(self._pending) > (self._workers + 1 if self._workers > 1 else 0):
            self._pending.popleft().result()

    def finish(self) -> None:
        """Waits for all samples; the error of the first that failed is raised here, or in :meth:`sample`."""
        while self._pending:
            self._pending.popleft().result()

    def _all(self, where: str, sample: Sample, statistics: Mapping[str, TensorStatistics]) -> None:
        following: Sample | None = self._feedback.begin(where, sample)
        while following is not None:
            outputs = self._once(where, following, statistics)
            following = self._feedback.follow(following, outputs)

    def _once(self, where: str, sample: Sample, statistics: Mapping[str, TensorStatistics]) -> Sample:
        """One run, group by group; returns the outputs that the feedback asked for."""
        kept: Sample = {}
        seen: dict[str, tuple[float, float]] = {}
        for index, group in enumerate(self._groups):
            first = index == 0
            wanted = [name for name in group if name not in sample]
            wanted += [*self._reductions, *(n for n in self._feedback.outputs if n not in wanted)] if first else []
            # ONNX Runtime takes an empty list for all outputs
            values = self._executor.run(sample, wanted) if wanted else {}
            values.update({name: sample[name] for name in group if name in sample})
            if first:
                kept = {name: values[name] for name in self._feedback.outputs}
                seen.update({name: _reduced(values, names) for name, names in self._probes.extremes.items()})
            for name in group:
                seen[name] = _extremes(values[name])
            self._count(where, statistics, seen, values, [*(self._probes.extremes if first else ()), *group])
        for name, sources in self._probes.derived.items():
            low_high = min(seen[s][0] for s in sources), max(seen[s][1] for s in sources)
            with self._locks[name]:
                statistics[name].update(*low_high)
        return kept

    def _count(
        self,
        where: str,
        statistics: Mapping[str, TensorStatistics],
        seen: Mapping[str, tuple[float, float]],
        values: Mapping[str, Array],
        names: Sequence[str],
    ) -> None:
        for name in names:
            low_high = _checked(name, *seen[name], where)
            with self._locks[name]:
                statistics[name].update(*low_high, values.get(name))


def collect_ranges(
    graph: Graph, tensors: Sequence[str], samples: Samples | Iterable[tuple[str, Sample]], source: str, tick: Tick
) -> Ranges:
    """Min-max ranges of ``tensors`` over all samples; see :func:`collect`."""
    return collect(graph, tensors, samples, source, tick=tick).ranges(MinMax())


def _reduced(values: Mapping[str, Array], names: tuple[str, str, str]) -> tuple[float, float]:
    smallest, largest, total = (float(values[name]) for name in names)
    if math.isfinite(smallest) and math.isfinite(largest) and math.isnan(total):
        smallest = math.nan
    return smallest, largest


def _extremes(array: Array) -> tuple[float, float]:
    return (float(array.min()), float(array.max())) if array.size else (math.inf, -math.inf)


def _checked(name: str, smallest: float, largest: float, where: str) -> tuple[float, float]:
    if math.isnan(smallest) or math.isnan(largest):
        raise CalibrationError(f"calibration: the tensor {name!r} became NaN on {where}: check that sample")
    return smallest, largest


def _derive(statistics: Mapping[str, TensorStatistics], probes: Probes) -> None:
    """Fills the histograms of tensors that only move or join the values of others."""
    for name, sources in probes.derived.items():
        joined = statistics[name].histogram
        if joined is None:
            continue
        for part in (statistics[source].histogram for source in sources):
            if part is not None:
                joined.merge(part)


def _merged(halves: Sequence[Mapping[str, TensorStatistics]], name: str) -> TensorStatistics:
    whole = TensorStatistics(counted=halves[0][name].histogram is not None)
    for half in halves:
        whole.merge(half[name])
    return whole


def range_of(kept: TensorStatistics, method: Method) -> Range:
    """A method's range; that of the extremes where no histogram was kept."""
    if method.needs_histogram and kept.histogram is None:
        return MinMax()(kept)
    return method(kept)
