"""Whether quantizing was worth it: how much of the arithmetic it reached, and if the model is smaller or faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgebig.graph import Executor, Graph
from edgebig.quantize import PlanFile
from edgebig.stages import StageNotes
from edgebig.steps.work import PartWork, Sample

_HALF = 0.5
_TIMED_RUNS = 15
_ARITHMETIC = {"int8", "fp8"}
"""Formats in which a layer also computes; others are of weights alone."""


def share_quantized(plan: PlanFile, work: Mapping[str, int]) -> float:
    """The part of the multiply-accumulates that the plan's INT8 and FP8 layers compute.

    Args:
        plan: what each layer computes with.
        work: multiply-accumulates of each node, all of the graph's.
    """
    everything = sum(work.values())
    done = sum(work.get(layer.node, 0) for layer in plan.layers if layer.format in _ARITHMETIC)
    return done / everything if everything else 0.0


def say_share(part: PartWork, work: Mapping[str, int], notes: StageNotes) -> None:
    """Says so where less than half of the arithmetic is quantized."""
    share = share_quantized(part.plan, work) if part.plan is not None else 0.0
    if share < _HALF:
        notes.decline(f"{part.name}: only {share:.0%} of the arithmetic is quantized")


def say_whether_it_pays(part: PartWork, work: Mapping[str, int], built: Path | None, notes: StageNotes) -> None:
    """For a model that was asked for in INT8 or FP8: says so where that was of little use.

    A model that became smaller is not timed; one that did not is, where what was built runs here.

    Args:
        part: lowered and quantized.
        work: multiply-accumulates of each node of the float graph.
        built: the graph that runs on this machine.
        notes: takes the lines.
    """
    say_share(part, work, notes)
    if built is None or part.result().weight_bytes < part.graph.weight_bytes:
        return
    plain, quantized = latencies([part.graph, built], part.examined().inputs[0])
    ratio = plain / quantized
    notes.note(f"{part.name}: {ratio:.2f} times float32's speed on this processor, measured")
    if ratio < 1:
        notes.decline(
            f"{part.name}: {part.precision} makes the model neither smaller nor faster ({ratio:.2f} times float32's "
            "speed): compile without it, or with --precision auto"
        )


def latencies(graphs: Sequence[Graph | Path], sample: Sample) -> list[float]:
    """Median seconds of one run of each graph, in turn."""
    return [statistics.median(found) for found in _timed(graphs, sample, 0.0, None)]


def speedup(plain: Graph, quantized: Graph, sample: Sample, seconds: float) -> float:
    """How many times as fast the second is, on one thread: the median over pairs of runs, one after the other.

    Other work on the machine slows the two of a pair alike; with several threads it would count twice.
    """
    before, after = _timed([plain, quantized], sample, seconds, 1)
    return statistics.median(a / b for a, b in zip(before, after, strict=True))


def _timed(
    graphs: Sequence[Graph | Path], sample: Sample, seconds: float, threads: int | None
) -> Sequence[Sequence[float]]:
    """Seconds of single runs of each graph, in turn: 15 of them, or as many as there is time for."""
    executors = [Executor(graph, "all", threads) for graph in graphs]
    times: list[list[float]] = [[] for _ in graphs]
    try:
        end = time.perf_counter() + seconds
        while len(times[-1]) < _TIMED_RUNS or time.perf_counter() < end:
            for executor, found in zip(executors, times, strict=True):
                start = time.perf_counter()
                executor.run(sample)
                found.append(time.perf_counter() - start)
    finally:
        for executor in executors:
            executor.close()
    return times
