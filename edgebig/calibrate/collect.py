"""Runs the samples through the graph once and keeps the statistics of each tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from edgebig.calibrate.checkpoint import Checkpoint, Progress
from edgebig.calibrate.data.samples import Sample, Samples
from edgebig.calibrate.feedback import Feedback, NoFeedback
from edgebig.calibrate.fetch import bytes_on, cores, too_large
from edgebig.calibrate.methods import Method, MinMax
from edgebig.calibrate.probe import Probes, with_probes
from edgebig.calibrate.ranges import Range, Ranges
from edgebig.calibrate.runs import Runs
from edgebig.calibrate.statistics import TensorStatistics
from edgebig.errors import CalibrationError
from edgebig.graph import Executor, Graph
from edgebig.graph.execute import Device
from edgebig.graph.groups import in_groups

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
        device: where they ran.
    """

    statistics: Mapping[str, TensorStatistics]
    halves: tuple[Mapping[str, TensorStatistics], Mapping[str, TensorStatistics]]
    samples: int
    source: str
    device: Device = "cpu"

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
    device: Device = "cpu",
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
        checkpoint: where the statistics are kept every few seconds and at the end, be that an interrupt or an
            error; samples that it has already are read, but not run.
        device: where the samples run; with ``cuda`` one after the other, since the GPU is one.

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
    progress = checkpoint.load(halves) if checkpoint is not None else Progress()
    feedback.restore(progress.state)
    free = cores()
    largest = max(sum(sizes[name] for name in group) for group in groups)
    alone = device == "cuda" or not isinstance(feedback, NoFeedback)
    workers = 1 if alone else max(1, min(free, memory // max(largest, 1)))
    with Executor(observed, "all", free - workers + 1, device) as executor:
        runs = Runs(executor, probes, feedback, groups, halves, progress, workers, free if workers < free else 1)
        try:
            count = _run_all(runs, chain([first], located), tick, checkpoint)
        finally:
            # also after an interrupt or a bad sample: what is finished need not run again
            runs.close()
            if checkpoint is not None:
                runs.save(checkpoint)
    for half in halves:
        _derive(half, probes)
    merged = {name: _merged(halves, name) for name in tensors}
    return Collected(merged, (halves[0], halves[1]), count, source, executor.device)


def _run_all(
    runs: Runs, samples: Iterable[tuple[str, Sample]], tick: Tick | None, checkpoint: Checkpoint | None
) -> int:
    """Runs the samples that the statistics lack; returns the number of all."""
    number = 0
    for number, (where, sample) in enumerate(samples, start=1):
        if number not in runs.finished:
            runs.sample(number, where, sample)
        if tick is not None:
            tick(number)
        if checkpoint is not None and checkpoint.is_due():
            runs.finish()
            runs.save(checkpoint)
    runs.finish()
    return number


def collect_ranges(
    graph: Graph, tensors: Sequence[str], samples: Samples | Iterable[tuple[str, Sample]], source: str, tick: Tick
) -> Ranges:
    """Min-max ranges of ``tensors`` over all samples; see :func:`collect`."""
    return collect(graph, tensors, samples, source, tick=tick).ranges(MinMax())


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
