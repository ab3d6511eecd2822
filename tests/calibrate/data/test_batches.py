"""The batch axis is found by name, and a batch's rows are what was put in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx_ir")

from edgebig.calibrate.data.batches import batch_axes, rows_of, with_batch_axis
from edgebig.spec import Dim, TensorSpec


def specs(*shapes: tuple[Dim, ...]) -> list[TensorSpec]:
    return [TensorSpec(f"i{n}", "float32", shape) for n, shape in enumerate(shapes)]


@pytest.mark.parametrize(
    ("shapes", "axes"),
    [
        ([("batch_size", "sequence_length"), ("batch_size", "sequence_length")], [0, 0]),
        ([("batch", 64), (2, "batch", 128), ()], [0, 1, None]),
        ([("N", 3), (2, "N", 8)], [0, 1]),
        ([("s77", 8)], [0]),
        ([(None, 3), (None, None)], [0, 0]),
        ([("batch",)], [0]),
        ([("sequence_length",), ("batch", "sequence_length")], [None, 0]),
        ([("text_batch_size", 4), ("image_batch_size", 3)], [None, None]),
        ([("samples",)], [None]),
        ([(None,)], [None]),
        ([("n",)], [None]),
        ([("frames", 80)], [None]),
        ([("T", 80)], [None]),
        ([("batch*heads", 80)], [None]),
        ([(4, 80), (4, 1)], [None, None]),
        ([], []),
    ],
)
def test_the_batch_axis(shapes: list[tuple[Dim, ...]], axes: list[int | None]) -> None:
    found = batch_axes(specs(*shapes))
    assert [found.get(f"i{n}") for n in range(len(shapes))] == axes


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[TensorSpec], dict[str, np.ndarray[Any, Any]], int]:
    """Inputs with the batch on any axis or none, and arrays for them."""
    count = draw(st.integers(2, 5))
    inputs, sample = [TensorSpec("x", "float32", ("batch", 2))], {}
    for n in range(draw(st.integers(0, 3))):
        shape: list[Dim] = list(draw(st.lists(st.integers(1, 3), max_size=3)))
        if draw(st.booleans()):
            shape.insert(draw(st.integers(0, len(shape))), "batch")
        inputs.append(TensorSpec(f"i{n}", "float32", tuple(shape)))
    for spec in inputs:
        sizes = [count if d == "batch" else d for d in spec.shape]
        sample[spec.name] = np.random.default_rng(len(sizes)).normal(size=sizes).astype(np.float32)
    return inputs, sample, count


@given(batches())
def test_rows_put_together_are_the_batch(made: tuple[list[TensorSpec], dict[str, Any], int]) -> None:
    inputs, sample, count = made
    rows = list(rows_of("a.npz[7]", sample, batch_axes(inputs)))
    assert [where for where, _ in rows] == [f"a.npz[7] row {i}" for i in range(count)]
    for spec in inputs:
        if "batch" in spec.shape:
            joined = np.concatenate([row[spec.name] for _, row in rows], axis=spec.shape.index("batch"))
            np.testing.assert_array_equal(joined, sample[spec.name])
        else:
            assert all(row[spec.name] is sample[spec.name] for _, row in rows)
    again = [w for where, row in rows for w, _ in rows_of(where, row, batch_axes(inputs))]
    assert again == [where for where, _ in rows]


def test_single_samples_get_their_batch_axis() -> None:
    inputs = specs(("batch", 3), (2, "batch", 4), (1, 5), (6, 5), ())
    shapes = [(3,), (2, 4), (5,), (5,), ()]
    sample = {spec.name: np.zeros(shape) for spec, shape in zip(inputs, shapes, strict=True)}
    fitted = with_batch_axis(sample, inputs)
    assert [a.shape for a in fitted.values()] == [(1, 3), (2, 1, 4), (1, 5), (5,), ()]
