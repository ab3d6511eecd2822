"""Runs the samples through the graph once and keeps the statistics of each tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgebig.calibrate.checkpoint import Checkpoint
from edgebig.calibrate.data.samples import Sample, Samples
from edgebig.calibrate.feedback import Feedback, NoFeedback
from edgebig.calibrate.methods import Method, MinMax
from edgebig.calibrate.probe import Probes, with_probes
from edgebig.calibrate.ranges import Range, Ranges
from edgebig.calibrate.statistics import TensorStatistics
from edgebig.errors import CalibrationError
from edgebig.graph import Executor, Graph
from edgebig.graph.values import static_shape

Array = np.ndarray[Any, Any]
Tick = Callable[[int], None]

MEMORY = 128 << 20
"""Bytes of activations that one run hands out at most, unless a single tensor is larger."""

_FLOAT = 4


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

    Extremes are reduced inside the graph. The values of ``counted`` tensors are fetched and counted
    while the next sample runs, then dropped: those of two runs are alive at once, however many
    samples there are.

    Args:
        graph: a float32 graph.
        tensors: names of float tensors of its main graph.
        samples: pairs of where a sample comes from and the sample.
        source: what the samples are, for the manifest.
        counted: those of ``tensors`` whose histogram is kept.
        memory: bytes of values that a run may hand out; more are fetched by several runs of a sample.
        tick: called after each sample with the number run so far.
        feedback: carries outputs of one run into the next, for models with state.
        checkpoint: where the statistics are kept every few seconds and at the end; samples that it has
            already are read, but not run.

    Raises:
        CalibrationError: no samples, or a tensor became NaN on one; the first of the graph is named.
    """
    feedback = feedback or NoFeedback()
    observed, probes = with_probes(graph, tensors, counted, feedback.outputs)
    halves = tuple({n: TensorStatistics(counted=n in set(counted)) for n in tensors} for _ in range(2))
    done = 0
    if checkpoint is not None:
        done, state = checkpoint.load(halves)
        feedback.restore(state)
    count = 0
    with Executor(observed, "all") as executor, ThreadPoolExecutor(1) as counter:
        run = _Run(executor, counter, observed, probes, feedback, memory)
        for count, (where, sample) in enumerate(samples, start=1):
            if count > done:
                run.sample(where, sample, halves[count % 2])
            if tick is not None:
                tick(count)
            if checkpoint is not None and count > done and checkpoint.is_due():
                run.finish()
                checkpoint.save(halves, count, feedback.snapshot())
        run.finish()
    if count == 0:
        raise CalibrationError(f"calibration: no samples in {source}: give at least one")
    if checkpoint is not None and count > done:
        checkpoint.save(halves, count, feedback.snapshot())
    for half in halves:
        _derive(half, probes)
    return Collected({name: _merged(halves, name) for name in tensors}, (halves[0], halves[1]), count, source)


class _Run:
    """Runs samples and has their values counted in another thread, one run behind."""

    def __init__(
        self,
        executor: Executor,
        counter: ThreadPoolExecutor,
        observed: Graph,
        probes: Probes,
        feedback: Feedback,
        memory: int,
    ) -> None:
        self._executor, self._counter, self._observed, self._probes = executor, counter, observed, probes
        self._feedback, self._memory = feedback, memory
        self._reductions = [output for names in probes.extremes.values() for output in names]
        self._groups: list[list[str]] | None = None
        self._pending: Future[None] | None = None

    def sample(self, where: str, sample: Sample, statistics: Mapping[str, TensorStatistics]) -> None:
        """Runs a sample from the data, and those that follow from its outputs."""
        following: Sample | None = self._feedback.begin(where, sample)
        while following is not None:
            outputs = self._once(where, following, statistics)
            following = self._feedback.follow(following, outputs)

    def _once(self, where: str, sample: Sample, statistics: Mapping[str, TensorStatistics]) -> Sample:
        """One sample, group by group; returns the outputs that the feedback asked for."""
        if self._groups is None:
            self._groups = _groups(self._observed, self._probes, sample, self._memory)
        kept: Sample = {}
        seen: dict[str, tuple[float, float]] = {}
        for index, group in enumerate(self._groups):
            first = index == 0
            wanted = [name for name in group if name not in sample]
            wanted += [*self._reductions, *(n for n in self._feedback.outputs if n not in wanted)] if first else []
            # nothing is wanted where all that is counted are inputs
            values = self._executor.run(sample, wanted) if wanted else {}
            values.update({name: sample[name] for name in group if name in sample})
            if first:
                kept = {name: values[name] for name in self._feedback.outputs}
            self.finish()
            extremes = self._probes.extremes if first else {}
            derived = self._probes.derived if index == len(self._groups) - 1 else {}
            self._pending = self._counter.submit(_count, statistics, extremes, group, derived, values, seen, where)
            # only the counting thread holds them now
            del values
        return kept

    def finish(self) -> None:
        """Waits for the counting of the run before; its error is raised here."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def collect_ranges(
    graph: Graph, tensors: Sequence[str], samples: Samples | Iterable[tuple[str, Sample]], source: str, tick: Tick
) -> Ranges:
    """Min-max ranges of ``tensors`` over all samples; see :func:`collect`."""
    return collect(graph, tensors, samples, source, tick=tick).ranges(MinMax())


def _count(
    statistics: Mapping[str, TensorStatistics],
    extremes: Mapping[str, tuple[str, str, str]],
    group: Sequence[str],
    derived: Mapping[str, tuple[str, ...]],
    values: Mapping[str, Array],
    seen: dict[str, tuple[float, float]],
    where: str,
) -> None:
    for name, (low, high, total) in extremes.items():
        smallest, largest = float(values[low]), float(values[high])
        if math.isfinite(smallest) and math.isfinite(largest) and math.isnan(float(values[total])):
            smallest = math.nan
        statistics[name].update(*_checked(name, smallest, largest, where))
    for name in group:
        array = values[name]
        low_high = (float(array.min()), float(array.max())) if array.size else (math.inf, -math.inf)
        seen[name] = _checked(name, *low_high, where)
        statistics[name].update(*seen[name], array)
    for name, sources in derived.items():
        lows, highs = zip(*(seen[source] for source in sources), strict=True)
        seen[name] = min(lows), max(highs)
        statistics[name].update(*seen[name])


def _checked(name: str, smallest: float, largest: float, where: str) -> tuple[float, float]:
    if math.isnan(smallest) or math.isnan(largest):
        raise CalibrationError(f"calibration: the tensor {name!r} became NaN on {where}: check that sample")
    return smallest, largest


def _groups(observed: Graph, probes: Probes, sample: Sample, memory: int) -> list[list[str]]:
    """Counted tensors in groups whose values fit the budget; one group, perhaps empty, at least."""
    groups: list[list[str]] = [[]]
    used = 0
    for name in probes.values:
        size = _bytes(observed, name, sample)
        if groups[-1] and used + size > memory:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def _bytes(observed: Graph, name: str, sample: Sample) -> int:
    if name in sample:
        return 0
    value = next(v for v in observed.model.graph.outputs if v.name == name)
    shape = static_shape(value.shape)
    if shape is not None:
        return math.prod(shape) * _FLOAT
    # a dynamic axis is taken to be as long as the sample's longest, and named sizes as they are
    longest = max((d for array in sample.values() for d in array.shape), default=1)
    dims = [] if value.shape is None else [d if isinstance(d, int) else longest for d in value.shape]
    return math.prod(dims) * _FLOAT


def _derive(statistics: Mapping[str, TensorStatistics], probes: Probes) -> None:
    """Fills the histograms of tensors that only move or join the values of others."""
    for name, sources in probes.derived.items():
        joined = statistics[name].histogram
        for source in sources:
            part = statistics[source].histogram
            if joined is not None and part is not None:
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
