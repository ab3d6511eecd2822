"""How near the outputs are to a reference's, without labels: agreement, cosine, signal to quantization noise ratio."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgebig.errors import EvaluationError
from edgebig.evaluate.item import Array, Item, Outputs
from edgebig.evaluate.metric import Metric
from edgebig.evaluate.outputs import joined, pick, shape_of
from edgebig.similarity import Similarity, compare

_FLOAT = "f"


def agreement(output: str | None) -> Metric:
    """The share of answers whose most probable class is the reference's: of items, tokens or pixels.

    Classes lie along the last axis of ``[1, tokens, classes]`` and along the second one of everything else, as
    ``[1, classes]`` and ``[1, classes, height, width]``. Of an item in pieces each piece is an answer.
    """

    def measure(item: Item, pieces: Sequence[Outputs]) -> Array:
        found, wanted = pick(joined(pieces), output), pick(item.label, output)
        if found.ndim < 2 or found.dtype.kind != _FLOAT or found.shape != wanted.shape:
            raise EvaluationError(
                f"{item.where}: agreement compares scores of classes, [1, classes] for instance; the output is "
                f"{shape_of(found)}, the reference's {shape_of(wanted)}: name another with --output"
            )
        axis = 2 if found.ndim == 3 else 1
        same = found.argmax(axis=axis) == wanted.argmax(axis=axis)
        return np.array([np.count_nonzero(same), same.size], np.float64)

    return Metric("agreement", "reference", True, "fraction", measure, lambda row: float(row[0] / row[1]))


def cosine(output: str | None) -> Metric:
    """The mean over items of the cosine to the reference, of the output where it is lowest."""

    def measure(item: Item, pieces: Sequence[Outputs]) -> Array:
        return np.array([min(s.cosine for s in _compared(item, pieces, output)), 1.0])

    return Metric("cosine", "reference", True, "number", measure, lambda row: row[0] / row[1])


def sqnr(output: str | None) -> Metric:
    """-10 log10 of the mean over items of noise to signal, in decibels, of the output where it is worst.

    The ratio is averaged, not the decibels, so that items without any noise do not make it infinite.
    """

    def measure(item: Item, pieces: Sequence[Outputs]) -> Array:
        worst = min(s.sqnr_db for s in _compared(item, pieces, output))
        return np.array([10 ** (-worst / 10) if worst > -math.inf else np.inf, 1.0])

    def total(row: Array) -> float:
        mean = row[0] / row[1]
        return math.inf if mean == 0 else -10 * math.log10(mean) if mean < math.inf else -math.inf

    return Metric("sqnr", "reference", True, "number", measure, total)


def _compared(item: Item, pieces: Sequence[Outputs], output: str | None) -> Iterator[Similarity]:
    found = joined(pieces)
    names = [output] if output is not None else [n for n, a in item.label.items() if a.dtype.kind == _FLOAT]
    names = names or list(item.label)
    for name in names:
        if name not in found or name not in item.label:
            raise EvaluationError(f"{item.where}: no output {name!r} to compare: the model has {', '.join(found)}")
        if found[name].shape != item.label[name].shape:
            raise EvaluationError(
                f"{item.where}: the output {name!r} has shape {list(found[name].shape)}, "
                f"the reference's {list(item.label[name].shape)}"
            )
        yield compare(item.label[name], found[name])
