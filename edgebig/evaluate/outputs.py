"""Finds what a metric measures among a model's outputs, and brings it into the metric's form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgebig.errors import EvaluationError
from edgebig.evaluate.item import Array, Outputs

_USUAL = ("logits", "sentence_embedding", "last_hidden_state")


def pick(outputs: Outputs, wanted: str | None) -> Array:
    """The output of that name; without a name ``logits``, an embedding, or the only one.

    Raises:
        EvaluationError: there is none of that name, or several and none of a usual name.
    """
    if wanted is not None and wanted not in outputs:
        raise EvaluationError(f"--output {wanted}: the model has no such output: it has {', '.join(outputs)}")
    name = wanted or next((n for n in _USUAL if n in outputs), None)
    if name is None and len(outputs) != 1:
        raise EvaluationError(f"name what to measure with --output: the model has the outputs {', '.join(outputs)}")
    return outputs[name] if name is not None else next(iter(outputs.values()))


def class_scores(pieces: Sequence[Outputs], wanted: str | None, where: str) -> Array:
    """float32 ``[classes]``: the scores of one item, the mean over its pieces.

    Raises:
        EvaluationError: the output is not ``[1, classes]`` with further axes of size 1.
    """
    found = []
    for outputs in pieces:
        scores = pick(outputs, wanted)
        if scores.dtype.kind != "f" or scores.ndim < 2 or scores.shape[0] != 1 or scores.size != scores.shape[1]:
            raise EvaluationError(
                f"{where}: a class is read from scores [1, classes], the output is {shape_of(scores)}: "
                "name another with --output, or give a function with --metric file.py:function"
            )
        found.append(scores.reshape(-1).astype(np.float32))
    return np.asarray(np.mean(found, axis=0, dtype=np.float32))


def single(pieces: Sequence[Outputs], metric: str, where: str) -> Outputs:
    """The outputs of an item that has one sample.

    Raises:
        EvaluationError: it has several.
    """
    if len(pieces) != 1:
        raise EvaluationError(f"{where}: {metric} takes items of one sample, found {len(pieces)}")
    return pieces[0]


def joined(pieces: Sequence[Outputs]) -> dict[str, Array]:
    """The outputs of an item's samples, one after the other along the first axis."""
    if len(pieces) == 1:
        return dict(pieces[0])
    return {name: np.concatenate([np.atleast_1d(p[name]) for p in pieces]) for name in pieces[0]}


def shape_of(array: Array) -> str:
    """Dtype and shape for messages."""
    return f"{array.dtype.name} [{', '.join(map(str, array.shape))}]"
