"""Rounding that looks at the layer's output: against nearest, brute force and float64."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebig.quantize.formats import FP8, INT4, INT8, Format, block_scales, channel_scales
from edgebig.quantize.repair.rounding import descend, local_error, round_matrix, shrunk

Array = np.ndarray
METHODS = ("gptq", "adaround")


def problem(rows: int, columns: int, samples: int, seed: int, *, correlated: float = 0.9) -> tuple[Array, Array]:
    """A weight and the second moment of inputs that depend on each other."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((samples, rows)) * random.uniform(0.1, 3, rows)
    x += correlated * random.standard_normal((samples, 1)) * random.standard_normal(rows)
    return random.standard_normal((rows, columns)).astype(np.float32), x.T @ x


def error_of(weight: Array, values: Array, scale: Array, second: Array) -> Array:
    """The local error, in float64 and written as its definition."""
    e = weight.astype(np.float64) - values.astype(np.float64) * scale.astype(np.float64)
    return np.diagonal(e.T @ second @ e)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 6),
    samples=st.integers(1, 60),
    seed=st.integers(0, 10**6),
    fmt=st.sampled_from([INT4, INT8, FP8]),
    dead=st.booleans(),
)
def test_no_column_is_worse_than_rounded_to_nearest(
    method: str, rows: int, columns: int, samples: int, seed: int, fmt: Format, dead: bool
) -> None:
    weight, second = problem(rows, columns, samples, seed)
    if dead:
        second[0, :] = second[:, 0] = 0
    scale = channel_scales(weight, 1, fmt)[None]
    plain = fmt.quantize(weight, scale)
    found = round_matrix(weight, scale, fmt, second, method)
    assert found.dtype == plain.dtype and found.shape == plain.shape
    assert np.abs(found.astype(np.float32)).max() <= fmt.high
    worst, ours = error_of(weight, plain, scale, second), error_of(weight, found, scale, second)
    assert (ours <= worst * (1 + 1e-4) + 1e-9).all()
    if dead:
        np.testing.assert_array_equal(found[0], plain[0])


@pytest.mark.parametrize(("method", "gain"), [("gptq", 0.5), ("adaround", 0.45)])
def test_int4_by_block_of_correlated_inputs_loses_far_less(method: str, gain: float) -> None:
    weight, second = problem(256, 64, 2000, 1, correlated=3.0)
    scale = np.repeat(block_scales(weight, 0, 64, INT4), 64, axis=0)
    found = round_matrix(weight, scale, INT4, second, method)
    plain = INT4.quantize(weight, scale)
    ratio = error_of(weight, found, scale, second).sum() / error_of(weight, plain, scale, second).sum()
    assert ratio < gain


def test_gptq_is_the_same_in_one_block_as_in_many_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, second = problem(200, 12, 500, 3)
    scale = channel_scales(weight, 1, INT8)[None]
    whole = round_matrix(weight, scale, INT8, second, "gptq")
    monkeypatch.setattr("edgebig.quantize.repair.rounding._AT_ONCE", 400)
    sliced = round_matrix(weight, scale, INT8, second, "gptq")
    assert (whole != sliced).mean() < 1e-3  # products of other shapes round otherwise
    monkeypatch.setattr("edgebig.quantize.repair.rounding._BLOCK", 16)
    assert (whole != round_matrix(weight, scale, INT8, second, "gptq")).mean() < 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_inputs_that_do_not_depend_on_each_other_round_to_nearest(method: str) -> None:
    weight, _ = problem(32, 8, 1, 2)
    scale = channel_scales(weight, 1, INT4)[None]
    second = np.diag(np.random.default_rng(0).uniform(0, 5, 32))
    np.testing.assert_array_equal(round_matrix(weight, scale, INT4, second, method), INT4.quantize(weight, scale))


def test_gptq_is_frantars_recursion() -> None:
    """The paper's algorithm 1, row by row on the inverse's Cholesky factor, in float64."""
    weight, second = problem(24, 5, 200, 5)
    scale = channel_scales(weight, 1, INT4).astype(np.float64)
    order = np.argsort(-np.diagonal(second), kind="stable")
    h = second[np.ix_(order, order)]
    h = h + 0.01 * np.diagonal(h).mean() * np.eye(24)
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    left, expected = weight[order].astype(np.float64), np.empty((24, 5))
    for k in range(24):
        expected[k] = np.clip(np.rint(left[k] / scale), -7, 7)
        loss = (left[k] - expected[k] * scale) / upper[k, k]
        left[k:] -= np.outer(upper[k, k:], loss)
    restored = np.empty_like(expected)
    restored[order] = expected
    found = round_matrix(weight, scale.astype(np.float32)[None], INT4, second, "gptq").astype(np.float64)
    nearest = INT4.quantize(weight, scale[None].astype(np.float32))
    paper, plain = (error_of(weight, q, scale, second) for q in (restored, nearest))
    better = paper < plain
    assert better.sum() >= 3
    np.testing.assert_array_equal(found[:, better], restored[:, better])


@pytest.mark.parametrize("seed", range(8))
def test_descent_ends_where_no_single_change_helps(seed: int) -> None:
    weight, second = problem(5, 4, 30, seed)
    scale = np.broadcast_to(channel_scales(weight, 1, INT4), weight.shape)
    start = INT4.quantize(weight, scale)
    found = descend(weight, scale, INT4, second.astype(np.float32), start, 50)
    before, after = (error_of(weight, q, scale, second) for q in (start, found))
    assert (after <= before * (1 + 1e-6)).all()
    for row, change in product(range(5), (-1, 1)):
        moved = found.astype(np.int64)
        moved[row] = np.clip(moved[row] + change, -7, 7)
        assert (error_of(weight, moved, scale, second) >= after * (1 - 1e-5)).all()


def test_descent_against_every_combination() -> None:
    """All up-and-down choices of six inputs; on most columns the best one is found, on all nearly."""
    hits, total, found_sum, best_sum, plain_sum = 0, 0, 0.0, 0.0, 0.0
    for seed in range(20):
        weight, second = problem(6, 3, 40, seed)
        scale = channel_scales(weight, 1, INT4)[None]
        found = round_matrix(weight, scale, INT4, second, "adaround", damping=0.0)
        low = np.floor(weight / scale)
        every = [np.clip(low + np.array(up)[:, None], -7, 7) for up in product((0, 1), repeat=6)]
        best = np.min([error_of(weight, q, scale, second) for q in every], axis=0)
        ours = error_of(weight, found, scale, second)
        hits += int((ours <= best * (1 + 1e-4)).sum())
        total += 3
        found_sum += ours.sum()
        best_sum += best.sum()
        plain_sum += error_of(weight, INT4.quantize(weight, scale), scale, second).sum()
    assert hits / total > 0.6
    assert found_sum < 1.05 * best_sum
    assert best_sum < 0.85 * plain_sum


def test_the_local_error_is_its_definition() -> None:
    weight, second = problem(10, 4, 50, 9)
    np.testing.assert_allclose(
        local_error(weight, second.astype(np.float32)), np.diagonal(weight.T @ second @ weight), rtol=1e-4
    )


def test_an_input_that_never_came_rounds_to_nearest() -> None:
    weight, _ = problem(8, 3, 1, 0)
    scale = channel_scales(weight, 1, INT8)[None]
    for method in METHODS:
        found = round_matrix(weight, scale, INT8, np.zeros((8, 8)), method)
        np.testing.assert_array_equal(found, INT8.quantize(weight, scale))


def test_few_rows_shrink_what_goes_together_and_many_do_not() -> None:
    second = np.array([[4.0, 2.0, -1.0], [2.0, 9.0, 3.0], [-1.0, 3.0, 1.0]])
    before = second.copy()
    np.testing.assert_allclose(shrunk(second, 3), [[4, 1, -0.5], [1, 9, 1.5], [-0.5, 1.5, 1]])
    np.testing.assert_allclose(shrunk(second, 3 * 10**6), second, rtol=2e-6)
    np.testing.assert_array_equal(second, before)
    np.testing.assert_array_equal(shrunk(np.zeros((2, 2)), 0), np.zeros((2, 2)))


@pytest.mark.parametrize("method", METHODS)
def test_of_few_rows_the_shrunk_moment_serves_other_rows_better(method: str) -> None:
    """Weak correlations and hardly more rows than channels: what the rows show together is mostly chance."""
    random = np.random.default_rng(3)
    channels, seen = 96, 120
    mixing = np.eye(channels) + 0.5 * random.standard_normal((channels, channels)) / np.sqrt(channels)
    rows = random.standard_normal((4000, channels)) @ mixing * np.exp(0.7 * random.standard_normal(channels))
    weight = random.standard_normal((channels, 24)).astype(np.float32)
    scale = channel_scales(weight, 1, INT4)[None]
    known, other = (part.T @ part for part in (rows[:seen], rows[seen:]))
    nearest = INT4.quantize(weight, scale)
    plain = round_matrix(weight, scale, INT4, known.copy(), method)
    shrinking = round_matrix(weight, scale, INT4, shrunk(known, seen), method)
    errors = [error_of(weight, values, scale, other).sum() for values in (nearest, plain, shrinking)]
    assert errors[1] > 1.1 * errors[0] and errors[2] < errors[0]
