"""Correlation of the model's numbers, or of its likeness of two sentences, with the labels'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from edgebig.errors import EvaluationError
from edgebig.evaluate.item import Array, Item, Outputs
from edgebig.evaluate.metric import Metric, missing_library
from edgebig.evaluate.outputs import pick, shape_of

Pair = tuple[float, float]


def correlation(name: str, output: str | None) -> Metric:
    """``pearson`` or ``spearman`` correlation, as torchmetrics' functions.

    An item of two samples gives the cosine of their embeddings: the output ``[1, size]``, or the mean of
    ``[1, tokens, size]`` over the tokens of the attention mask. An item of one sample gives the model's only number.

    Raises:
        MissingExtra: torchmetrics is not installed.
    """
    try:
        import torch
        from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef
    except ImportError as error:
        raise missing_library(error) from error
    correlate = {"pearson": pearson_corrcoef, "spearman": spearman_corrcoef}[name]

    def total(kept: list[Pair]) -> float:
        found, labels = torch.tensor(kept, dtype=torch.float64).T.contiguous()
        if len(kept) < 2 or float(found.std()) == 0 or float(labels.std()) == 0:
            raise EvaluationError(f"{name} needs two or more items whose labels and answers are not all alike")
        return float(correlate(found, labels))

    return Metric(name, "number", True, "number", partial(_measure, output), total, sums=False)


def _measure(output: str | None, item: Item, pieces: Sequence[Outputs]) -> Pair:
    if len(pieces) == 1:
        found = pick(pieces[0], output)
        if found.size != 1:
            raise EvaluationError(
                f"{item.where}: a correlation takes one number, or pairs of sentences; the output is {shape_of(found)}"
            )
        return float(found.reshape(-1)[0]), float(item.label)
    if len(pieces) != 2:
        raise EvaluationError(f"{item.where}: a correlation takes pairs, found {len(pieces)} samples")
    left, right = (
        _embedding(pick(p, output), sample, item.where) for p, sample in zip(pieces, item.samples, strict=True)
    )
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms > 0 else 0.0, float(item.label)


def _embedding(found: Array, sample: Mapping[str, Array], where: str) -> Array:
    found = found.astype(np.float64)
    mask = sample.get("attention_mask")
    if found.ndim == 2 and found.shape[0] == 1:
        return np.asarray(found[0])
    if found.ndim == 3 and mask is not None and mask.shape == found.shape[:2] == (1, found.shape[1]):
        weights = mask.astype(np.float64)[0, :, None]
        return np.asarray((found[0] * weights).sum(axis=0) / max(float(weights.sum()), 1.0))
    raise EvaluationError(
        f"{where}: an embedding is [1, size], or [1, tokens, size] with an attention_mask; found {shape_of(found)}"
    )
