"""Compares two executables and refuses a result that is not what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.errors import AccuracyError
from edgebig.graph import Executor, Graph
from edgebig.graph.execute import Level
from edgebig.similarity import Similarity, compare

Sample = dict[str, np.ndarray[Any, Any]]


def outputs_of(
    graph: Graph | Path,
    inputs: Sequence[Sample],
    level: Level,
    frozen: Sample | None = None,
    outputs: Sequence[str] | None = None,
) -> list[Sample]:
    """What a graph answers on each of the inputs.

    Args:
        graph: itself or a file.
        inputs: the examples.
        level: ONNX Runtime's optimization level.
        frozen: inputs that only the original still takes.
        outputs: those that are asked for; all by default.
    """
    with Executor(graph, level) as executor:
        return [executor.run({**sample, **(frozen or {})}, outputs) for sample in inputs]


def similarity_of(expected: Sequence[Sample], found: Sequence[Sample]) -> dict[str, Similarity]:
    """For each output, the worst similarity over the examples.

    Raises:
        AccuracyError: an output is missing or has another shape.
    """
    result = {}
    for name in expected[0]:
        pairs = []
        for example, answer in zip(expected, found, strict=True):
            if name not in answer or answer[name].shape != example[name].shape:
                has = f"the shape {answer[name].shape}" if name in answer else "no such output"
                raise AccuracyError(f"the output {name!r} should have the shape {example[name].shape}, found {has}")
            pairs.append(compare(example[name], answer[name]))
        result[name] = Similarity.worst(pairs)
    return result


def check_faithful(similarity: Mapping[str, Similarity], limit: float, what: str) -> str:
    """Refuses a result that differs by more than ``limit`` of an output's largest magnitude; returns a line.

    Raises:
        AccuracyError: it does, or holds NaN or infinity where the original does not.
    """
    for name, found in similarity.items():
        if not found.max_relative <= limit:
            how = (
                "holds NaN or infinity"
                if found.max_relative == float("inf")
                else f"differs by {found.max_relative:.2g}"
            )
            raise AccuracyError(
                f"{what}: the output {name!r} {how} (of the original's largest value), allowed are {limit:.2g}: "
                "use a more precise format, or other calibration data"
            )
    worst = Similarity.worst(similarity.values())
    return f"{what}: cosine {worst.cosine:.6f}, largest relative difference {worst.max_relative:.1e}"
