"""Rows of a product's input: which are kept depends on the data alone, and halves stay apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import Sample, net, node, normal, run

from edgebig.graph import Graph
from edgebig.quantize.repair.rows import _Thinned, gather_rows


def two_products() -> Graph:
    """x nx3x4 -> relu -> product, and a product of x itself."""
    return net(
        [node("Relu", "x", "r"), node("MatMul", "r w", "a"), node("MatMul", "x w", "b"), node("Add", "a b", "y")],
        {"x": ["n", 3, 4]},
        ["y"],
        {"w": normal(4, 5)},
    )


def numbered(count: int) -> list[Sample]:
    """Sample i holds i in every place but its last row's, which holds -i."""
    found = []
    for i in range(count):
        array = np.full((1, 3, 4), i, np.float32)
        array[0, 2] = -i
        found.append({"x": array})
    return found


def test_every_second_sample_is_measured_and_the_others_are_kept() -> None:
    rows = gather_rows(two_products(), ["x", "r"], iter(numbered(6)), 100)
    x, r = rows["x"], rows["r"]
    assert x.kept.shape == r.kept.shape == (9, 4)
    assert x.kept[:, 0].tolist() == [1, 1, -1, 3, 3, -3, 5, 5, -5]
    assert r.kept[:, 0].tolist() == [1, 1, 0, 3, 3, 0, 5, 5, 0]
    assert x.low.tolist() == [-4] * 4 and x.high.tolist() == [4] * 4
    assert r.low.tolist() == [0] * 4 and r.high.tolist() == [4] * 4
    assert x.largest.tolist() == r.largest.tolist() == [5] * 4  # of both halves
    assert all(a.dtype == np.float32 for a in (x.low, x.high, x.kept, x.largest))


def test_what_is_computed_is_what_the_graph_computes() -> None:
    graph = two_products()
    before = graph.digest()
    samples = [{"x": normal(2, 3, 4, seed=i)} for i in range(4)]
    rows = gather_rows(graph, ["r"], samples, 100)["r"]
    probe = graph.clone()
    probe.model.graph.outputs[:] = [next(n for n in probe.model.graph if n.name == "r").outputs[0]]
    found = [run(probe, s)["r"].reshape(-1, 4) for s in samples]
    np.testing.assert_array_equal(rows.kept, np.concatenate(found[1::2]))
    np.testing.assert_array_equal(rows.high, np.concatenate(found[::2]).max(axis=0))
    assert graph.digest() == before


@pytest.mark.parametrize("samples", [[], numbered(1)])
def test_too_few_samples_give_nothing(samples: list[Sample]) -> None:
    assert gather_rows(two_products(), ["x"], samples, 10) == {}


def test_memory_is_bounded_whatever_the_number_of_samples() -> None:
    rows = gather_rows(two_products(), ["x"], numbered(400), 20)["x"]
    assert 20 < len(rows.kept) <= 40
    # spread evenly over the whole of it
    assert np.abs(rows.kept[:, 0]).min() < 40 and np.abs(rows.kept[:, 0]).max() > 360


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_thinning_knows_rows_and_not_batches(sizes: list[int], limit: int, random) -> None:
    stream = np.arange(sum(sizes), dtype=np.float32)[:, None]
    cut = np.cumsum([0, *sizes])
    batched, single = _Thinned(limit), _Thinned(limit)
    for start, end in pairwise(cut):
        batched.add(stream[start:end])
    for row in stream:
        single.add(row[None])
    # every n-th row, n the least power of two that leaves at most twice the limit
    every = 1
    while len(stream[::every]) > 2 * limit:
        every *= 2
    expected = stream[::every]
    for found in (batched.rows(), single.rows()):
        assert found.tolist() == expected.tolist() or not len(stream)
