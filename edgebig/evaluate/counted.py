"""Metrics of torchmetrics whose states are sums: accuracy, F1, intersection over union, perplexity.

torchmetrics does the arithmetic, both from an item to its states and from states to the score; between the two
we add states up, which is what torchmetrics itself does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from edgebig.errors import EvaluationError
from edgebig.evaluate.item import Array, Item, Outputs
from edgebig.evaluate.metric import Metric, missing_library
from edgebig.evaluate.outputs import class_scores, pick, shape_of, single

IGNORED = -100
"""A label that does not count, in arrays of classes or tokens."""

IGNORED_PIXEL = 255
"""The same in a map of classes."""

_OPTIONS: dict[str, Any] = {"validate_args": False, "compute_with_cache": False}

Pair = tuple[int, Array, Array]
"""Number of classes, predictions and targets as torchmetrics takes them."""


class _Sums:
    """A torchmetrics metric, made when the number of classes is known."""

    def __init__(self, make: Callable[[int], Any], pair: Callable[[Item, Sequence[Outputs]], Pair]) -> None:
        self._make, self._pair = make, pair
        self._metric: Any = None
        self._classes = 0

    def measure(self, item: Item, outputs: Sequence[Outputs]) -> Array:
        """The states after this item alone, as one float64 vector."""
        import torch

        classes, found, target = self._pair(item, outputs)
        if self._metric is None:
            self._metric, self._classes = self._make(classes), classes
        if classes != self._classes:
            raise EvaluationError(f"{item.where}: the model gives {classes} classes, before it {self._classes}")
        self._metric.reset()
        self._metric.update(torch.from_numpy(np.ascontiguousarray(found)), torch.from_numpy(target))
        states = [state.double().reshape(-1).numpy() for state in self._metric.metric_state.values()]
        return np.concatenate(states)

    def total(self, row: Array) -> float:
        """The score of summed states."""
        import torch

        start = 0
        for name, state in self._metric.metric_state.items():
            values = torch.from_numpy(np.ascontiguousarray(row[start : start + state.numel()]))
            setattr(self._metric, name, values.reshape(state.shape).to(state.dtype))
            start += state.numel()
        return float(self._metric.compute())

    def hits(self, row: Array) -> tuple[float, float]:
        """Hits and trials in the summed states of an accuracy over all classes."""
        names = list(self._metric.metric_state)
        hits, misses = row[names.index("tp")], row[names.index("fn")]
        return float(hits), float(hits + misses)


def accuracy(output: str | None, top: int = 1) -> Metric:
    """Share of items whose class is among the ``top`` of highest score; of labelled tokens where labels are arrays.

    Raises:
        MissingExtra: torchmetrics is not installed.
    """
    classification = _torchmetrics().classification
    sums = _Sums(
        lambda classes: classification.MulticlassAccuracy(
            classes, top_k=min(top, classes), average="micro", ignore_index=IGNORED, **_OPTIONS
        ),
        partial(_class_pair, output),
    )
    name = "accuracy" if top == 1 else f"top-{top}"
    return Metric(name, "class", True, "fraction", sums.measure, sums.total, trials=sums.hits)


def f1(output: str | None) -> Metric:
    """F1, the mean over classes (macro), as torchmetrics' ``MulticlassF1Score``.

    Raises:
        MissingExtra: torchmetrics is not installed.
    """
    classification = _torchmetrics().classification
    sums = _Sums(
        lambda classes: classification.MulticlassF1Score(classes, average="macro", ignore_index=IGNORED, **_OPTIONS),
        partial(_class_pair, output),
    )
    return Metric("f1", "class", True, "fraction", sums.measure, sums.total)


def miou(output: str | None) -> Metric:
    """Mean intersection over union over classes, as torchmetrics' ``MulticlassJaccardIndex``; pixels of 255 left out.

    Scores are resized to the label's size (bilinear) before the class is taken, as transformers does.

    Raises:
        MissingExtra: torchmetrics is not installed.
    """
    classification = _torchmetrics().classification
    sums = _Sums(
        lambda classes: classification.MulticlassJaccardIndex(classes, ignore_index=IGNORED_PIXEL, **_OPTIONS),
        partial(_mask_pair, output),
    )
    return Metric("miou", "mask", True, "fraction", sums.measure, sums.total)


def perplexity(output: str | None, *, is_causal: bool) -> Metric:
    """The exponential of the mean negative log-likelihood of the labelled tokens, as torchmetrics' ``Perplexity``.

    Args:
        output: the logits ``[1, tokens, vocabulary]``.
        is_causal: position i predicts the label at i + 1; else the one at i. Without labels, a causal model's
            are its own input tokens.

    Raises:
        MissingExtra: torchmetrics is not installed.
    """
    text = _torchmetrics().text
    sums = _Sums(
        lambda vocabulary: text.Perplexity(ignore_index=IGNORED, compute_with_cache=False),
        partial(_token_pair, output, is_causal),
    )
    return Metric("perplexity", "tokens", False, "number", sums.measure, sums.total)


def _torchmetrics() -> Any:
    try:
        import torchmetrics
    except ImportError as error:
        raise missing_library(error) from error
    return torchmetrics


def _class_pair(output: str | None, item: Item, pieces: Sequence[Outputs]) -> Pair:
    if not isinstance(item.label, np.ndarray):
        scores = class_scores(pieces, output, item.where)
        _check_range(np.asarray(item.label), len(scores), item.where)
        return len(scores), scores[None], np.asarray([item.label], np.int64)
    scores = pick(single(pieces, "a label for each token", item.where), output)
    if scores.ndim != 3 or scores.shape[:2] != (1, item.label.size):
        raise EvaluationError(
            f"{item.where}: {item.label.size} labels need scores [1, {item.label.size}, classes], "
            f"the output is {shape_of(scores)}"
        )
    _check_range(item.label[item.label != IGNORED], scores.shape[2], item.where)
    return scores.shape[2], scores.astype(np.float32).transpose(0, 2, 1), item.label.reshape(1, -1)


def _mask_pair(output: str | None, item: Item, pieces: Sequence[Outputs]) -> Pair:
    import torch

    scores = pick(single(pieces, "miou", item.where), output)
    if scores.dtype.kind != "f" or scores.ndim != 4 or scores.shape[0] != 1 or scores.shape[1] < 2:
        raise EvaluationError(
            f"{item.where}: miou takes scores [1, classes, height, width], the output is {shape_of(scores)}: "
            "name another with --output, or give a function with --metric file.py:function"
        )
    classes = scores.shape[1]
    _check_range(item.label[item.label != IGNORED_PIXEL], classes, item.where)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(scores.astype(np.float32)), size=item.label.shape, mode="bilinear", align_corners=False
    )
    return classes, resized.argmax(dim=1).numpy(), item.label[None].astype(np.int64)


def _token_pair(output: str | None, is_causal: bool, item: Item, pieces: Sequence[Outputs]) -> Pair:
    logits = pick(single(pieces, "perplexity", item.where), output)
    labels = item.label
    if labels is None:
        labels = _own_tokens(item) if is_causal else None
        if labels is None:
            raise EvaluationError(f"{item.where}: perplexity needs labels, the tokens with {IGNORED} where none counts")
    labels = np.asarray(labels).reshape(1, -1).astype(np.int64)
    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        raise EvaluationError(
            f"{item.where}: perplexity of {labels.size} tokens needs logits [1, {labels.size}, vocabulary], "
            f"the output is {shape_of(logits)}"
        )
    _check_range(labels[labels != IGNORED], logits.shape[2], item.where)
    logits = logits.astype(np.float32)
    if is_causal:
        logits, labels = logits[:, :-1], np.ascontiguousarray(labels[:, 1:])
    return logits.shape[2], logits, labels


def _own_tokens(item: Item) -> Array | None:
    tokens = item.samples[0].get("input_ids")
    if tokens is None:
        return None
    mask = item.samples[0].get("attention_mask")
    return tokens if mask is None or mask.shape != tokens.shape else np.where(mask != 0, tokens, IGNORED)


def _check_range(labels: Array, classes: int, where: str) -> None:
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise EvaluationError(
            f"{where}: the label {wrong} is none of the model's {classes} classes, 0 to {classes - 1}"
        )
