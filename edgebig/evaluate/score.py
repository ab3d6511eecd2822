"""Runs a model over labelled items; scores with confidence intervals, and the loss between two scores.

Intervals are of 95 %. A ratio of successes to trials, one trial for each item, has Wilson's score interval
(E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927). Others
have the bootstrap over items (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993): percentiles
of the resampled scores, or the score ± 1.96 standard errors where the metric is resampled fewer than 200
times. The loss between two scores on the same items is resampled in pairs: both scores of one resample are of
the same items, so that what makes an item hard for both models does not count as noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from edgebig.errors import EvaluationError
from edgebig.evaluate.item import Array, Item, Outputs
from edgebig.evaluate.metric import Metric

Run = Callable[[Mapping[str, Array]], Outputs]

_BLOCKS = 256
"""What can be added up is kept in so many sums, whatever the number of items, and these are resampled."""

_PERCENTILES_FROM = 200
_SEED = 0
_Z = 1.959963984540054  # 97.5 % of the standard normal distribution


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval.

    Attributes:
        low, high: its ends, in the metric's unit.
        method: how it was made.
    """

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Score:
    """What a model reaches.

    Attributes:
        metric: of what.
        value: the score.
        items: number of items.
        kept: what the metric kept: sums by block, or one entry for each item.
    """

    metric: Metric
    value: float
    items: int
    kept: list[Any] = field(repr=False, compare=False)

    @cached_property
    def interval(self) -> Interval | None:
        """Of the value, made when it is first asked for; ``None`` where the metric could not be resampled."""
        if self.metric.trials is not None:
            successes, trials = self.metric.trials(np.sum(self.kept, axis=0))
            if trials == self.items:
                return wilson(successes, trials)
        scores = _resampled(self.metric, self.kept)
        return None if scores is None else _bootstrap(scores, self.value, "bootstrap")

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"value": self.value, "items": self.items, "interval": _plain(self.interval)}


@dataclass(frozen=True)
class Drop:
    """What was lost between two scores on the same items.

    Attributes:
        value: positive where the found score is worse, in the metric's unit.
        interval: of the value, from the paired bootstrap.
        within_noise: whether the interval holds 0: these items do not tell the two apart; ``None`` without an
            interval.
    """

    value: float
    interval: Interval | None
    within_noise: bool | None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"value": self.value, "interval": _plain(self.interval), "within_noise": self.within_noise}


def evaluate(
    run: Run, items: Iterable[Item], metric: Metric, *, tick: Callable[[int], None] = lambda count: None
) -> Score:
    """The score of a model on labelled items, read one at a time.

    Outputs are dropped once measured. Memory holds at most 256 sums, or for metrics that cannot be added up
    (``sums`` is false) what the metric keeps of each item. The same items give the same score and interval.

    Args:
        run: runs the model once: an array for each input to an array for each output.
        items: labelled items.
        metric: what is measured.
        tick: called with the number of items done so far.

    Raises:
        EvaluationError: there are no items, or an item's outputs and label do not fit the metric.
        EdgebigError: reading an item or running the model failed.
    """
    kept: list[Any] = []
    count = 0
    for item in items:
        row = metric.measure(item, [run(sample) for sample in item.samples])
        if metric.sums and count >= _BLOCKS:
            kept[count % _BLOCKS] = kept[count % _BLOCKS] + row
        else:
            kept.append(row)
        count += 1
        tick(count)
    if count == 0:
        raise EvaluationError("evaluation data: it holds no items")
    return Score(metric, float(metric.total(np.sum(kept, axis=0) if metric.sums else kept)), count, kept)


def compare_scores(reference: Score, found: Score) -> Drop:
    """What ``found`` lost against ``reference``, both of one metric on the same items.

    Raises:
        EvaluationError: they are of different metrics or numbers of items.
    """
    metric = found.metric
    if (reference.metric.name, reference.items) != (metric.name, found.items):
        raise EvaluationError(
            f"scores of {reference.metric.name} on {reference.items} items and of {metric.name} on {found.items} "
            "cannot be compared: evaluate both on the same items"
        )
    value = metric.drop(reference.value, found.value)
    before = _resampled(metric, reference.kept)
    after = _resampled(metric, found.kept)
    if before is None or after is None:
        return Drop(value, None, None)
    drops = np.array([metric.drop(a, b) for a, b in zip(before, after, strict=True)])
    interval = _bootstrap(drops, value, "paired bootstrap")
    return Drop(value, interval, None if interval is None else interval.low <= 0 <= interval.high)


def wilson(successes: float, trials: float) -> Interval:
    """Wilson's score interval for a proportion."""
    share, square = successes / trials, _Z * _Z
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = _Z / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    return Interval(max(centre - half, 0.0), min(centre + half, 1.0), "Wilson")


def _resampled(metric: Metric, kept: list[Any]) -> Array | None:
    """The scores of resamples, the same ones for the same number of items; ``None`` where they cannot be had."""
    if metric.resamples == 0 or len(kept) < 2:
        return None
    rng = np.random.default_rng(_SEED)
    rows = np.asarray(kept, np.float64) if metric.sums else None
    scores = []
    try:
        for _ in range(metric.resamples):
            chosen = rng.integers(len(kept), size=len(kept))
            if rows is None:
                scores.append(metric.total([kept[i] for i in chosen]))
            else:
                scores.append(metric.total(np.bincount(chosen, minlength=len(kept)).astype(np.float64) @ rows))
    except EvaluationError:  # a user's function may need every class at least once
        return None
    return np.array(scores, np.float64)


def _bootstrap(scores: Array, value: float, name: str) -> Interval | None:
    if not np.isfinite(scores).all():
        return None
    if len(scores) >= _PERCENTILES_FROM:
        low, high = np.percentile(scores, [2.5, 97.5])
        return Interval(float(low), float(high), f"{name}, percentiles of {len(scores)} resamples")
    error = float(scores.std(ddof=1))
    return Interval(value - _Z * error, value + _Z * error, f"{name}, 1.96 standard errors of {len(scores)} resamples")


def _plain(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else {"low": interval.low, "high": interval.high, "method": interval.method}
