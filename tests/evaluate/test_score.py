"""Scores, their intervals, and what is lost between two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torchmetrics", reason="the extra eval is not installed: pip install 'edgebig[eval]'")

from edgebig.errors import EvaluationError
from edgebig.evaluate import Item, Metric, choose_metric, compare_scores, evaluate
from edgebig.evaluate.score import wilson

Array = np.ndarray[Any, Any]
MEAN = Metric("mean", "any", True, "number", lambda item, outs: np.array([outs[0]["y"][0], 1.0]), lambda r: r[0] / r[1])


def items(values: Array) -> list[Item]:
    return [Item(f"{i}", ({"x": np.array([v])},), 0) for i, v in enumerate(values)]


def same(sample: Any) -> dict[str, Array]:
    return {"y": sample["x"]}


def classes(sample: Any) -> dict[str, Array]:
    return {"logits": np.eye(2, dtype=np.float32)[sample["x"].astype(int)]}


def test_wilson_is_the_published_interval() -> None:
    # R. G. Newcombe, Two-sided confidence intervals for the single proportion, 1998: method 3 for 81 of 263
    found = wilson(81, 263)
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert wilson(0, 10).low == pytest.approx(0, abs=1e-12)
    assert wilson(10, 10).high == pytest.approx(1)


def test_accuracy_has_wilsons_interval() -> None:
    found = evaluate(classes, items(np.array([0] * 90 + [1] * 10)), choose_metric("accuracy", None, None))
    assert (found.value, found.items) == (pytest.approx(0.9), 100)
    assert found.interval == wilson(90, 100)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 700), st.integers(0, 99))
def test_bounded_sums_give_the_whole_mean_and_a_sound_interval(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=count)
    found = evaluate(same, items(values), MEAN)
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    assert len(found.kept) == min(count, 256)
    assert found.interval is not None and found.interval.low <= found.value <= found.interval.high
    if count > 30:
        half = (found.interval.high - found.interval.low) / 2
        assert half == pytest.approx(1.96 * values.std(ddof=1) / np.sqrt(count), rel=0.35)
    assert evaluate(same, items(values), MEAN).interval == found.interval


def test_items_are_read_one_at_a_time() -> None:
    open_items = []

    def stream() -> Iterator[Item]:
        for item in items(np.arange(5.0)):
            open_items.append(item.where)
            yield item

    def run(sample: Any) -> dict[str, Array]:
        assert len(open_items) == sample["x"][0] + 1
        return same(sample)

    ticks: list[int] = []
    assert evaluate(run, stream(), MEAN, tick=ticks.append).value == 2
    assert ticks == [1, 2, 3, 4, 5]
    with pytest.raises(EvaluationError, match="holds no items"):
        evaluate(run, iter([]), MEAN)


def test_a_paired_loss_is_seen_where_single_intervals_overlap() -> None:
    hard = np.random.default_rng(0).normal(scale=10, size=300)
    before = evaluate(same, items(hard), MEAN)
    after = evaluate(lambda s: {"y": s["x"] - 0.5}, items(hard), MEAN)
    assert before.interval is not None and after.interval is not None
    assert after.interval.high > before.interval.low
    drop = compare_scores(before, after)
    assert drop.value == pytest.approx(0.5)
    assert drop.within_noise is False
    assert drop.interval is not None and drop.interval.low == pytest.approx(0.5)
    noisy = np.random.default_rng(1).normal(scale=5, size=300)
    noise = compare_scores(before, evaluate(same, items(hard + noisy - noisy.mean()), MEAN))
    assert noise.within_noise is True


def test_the_direction_decides_what_is_worse() -> None:
    perplexity = choose_metric("perplexity", None, None)
    assert (perplexity.drop(10, 12), perplexity.drop(10, 9)) == (2, -1)
    accuracy = choose_metric("accuracy", None, None)
    assert accuracy.drop(0.75, 0.5) == 0.25
    assert MEAN.drop(np.inf, np.inf) == 0
    assert (accuracy.text(0.5), accuracy.text(0.001, is_difference=True)) == ("50.00 %", "0.10 points")


def test_scores_of_other_items_are_not_compared() -> None:
    one, two = (evaluate(same, items(np.ones(n)), MEAN) for n in (3, 4))
    with pytest.raises(EvaluationError, match="mean on 3 items and of mean on 4 cannot be compared"):
        compare_scores(one, two)


def test_one_item_has_no_interval() -> None:
    found = evaluate(same, items(np.ones(1)), MEAN)
    assert (found.value, found.interval) == (1, None)
    drop = compare_scores(found, found)
    assert (drop.value, drop.interval, drop.within_noise) == (0, None, None)
