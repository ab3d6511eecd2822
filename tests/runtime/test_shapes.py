"""Sizes of dynamic axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgebig.errors import InputError, UsageError
from edgebig.runtime.shapes import input_shapes, output_shape
from edgebig.spec import TensorSpec

IDS, MASK = TensorSpec("ids", "int64", ("batch", "tokens")), TensorSpec("mask", "int64", ("batch", "tokens"))
PIXELS = TensorSpec("pixels", "float32", ("batch", 3, None))


def test_axes_inputs_and_usual_shapes_fill_what_is_free() -> None:
    specs = [IDS, MASK, PIXELS]
    expected = {"ids": (2, 7), "mask": (2, 7), "pixels": (2, 3, 9)}
    assert input_shapes(specs, {"batch": 2, "tokens": 7, "pixels": (2, 3, 9)}, {}) == expected
    assert input_shapes(specs, {"ids": (2, 7)}, {"pixels": (1, 3, 9), "mask": (1, 5)}) == expected
    assert input_shapes(specs, None, {"ids": (1, 5), "mask": (1, 5), "pixels": (1, 3, 9)}) == {
        "ids": (1, 5),
        "mask": (1, 5),
        "pixels": (1, 3, 9),
    }
    assert input_shapes([TensorSpec("x", "float32", ())], None, {}) == {"x": ()}


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (
            {"idz": (1, 2)},
            UsageError,
            "names 'idz', which is neither an input nor an axis: it may name ids, mask, .*batch",
        ),
        ({"ids": (1, 2, 3)}, InputError, "the shape 1x2x3 does not fit the input ids: int64 batchxtokens"),
        (
            {"ids": (1, 2), "mask": (1, 3)},
            InputError,
            "the axis 'tokens' must be of one size: it is 2 elsewhere, and 3",
        ),
        ({"pixels": (1, 4, 9)}, InputError, "the shape 1x4x9 does not fit the input pixels"),
        ({"batch": -1}, InputError, "the axis 'batch' must be 0 or more, found -1"),
        ({"batch": 2.0}, UsageError, r"shapes\['batch'\] must be one whole number or several, found 2\.0"),
        ({"ids": "17"}, UsageError, r"shapes\['ids'\] must be one whole number or several, found '17'"),
        ({"ids": (1.5, 2)}, UsageError, r"shapes\['ids'\] must be .* found \(1\.5, 2\)"),
        ({"ids": None}, UsageError, r"shapes\['ids'\] must be .* found None"),
        ({"ids": 3}, InputError, "the shape 3 does not fit the input ids"),
        ({"batch": 1 << 40, "tokens": 1 << 40, "pixels": (1 << 40, 3, 1)}, InputError, "larger than any memory"),
        ([("batch", 1)], UsageError, "shapes must be a dict of shapes by input, or sizes by axis, found list"),
        ({"batch": 1, "tokens": 2}, UsageError, r"axis 2 of the input pixels: .* has no fixed size"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        input_shapes([IDS, MASK, PIXELS], given, {})


def test_whole_numbers_of_numpy_are_sizes_too() -> None:
    found = input_shapes([IDS], {"batch": np.int64(2), "tokens": np.uint8(7)}, {"ids": (1, 5)})
    assert found == {"ids": (2, 7)} and {type(size) for size in found["ids"]} == {int}
    assert input_shapes([IDS], {"ids": np.array([2, 7])}, {"ids": (1, 5)}) == {"ids": (2, 7)}
    line = TensorSpec("x", "float32", ("length",))
    assert input_shapes([line], {"x": 4}, {"x": (9,)}) == {"x": (4,)}, "the shape of one axis"


def test_an_outputs_shape_follows_from_names_alone() -> None:
    shapes = {"ids": (2, 7)}
    assert output_shape(TensorSpec("y", "float32", ("batch", 5)), [IDS], shapes) == (2, 5)
    assert output_shape(TensorSpec("y", "float32", ("tokens", "batch")), [IDS], shapes) == (7, 2)
    assert output_shape(TensorSpec("y", "float32", ("batch", "found")), [IDS], shapes) is None
    assert output_shape(TensorSpec("y", "float32", (None,)), [IDS], shapes) is None
    assert output_shape(TensorSpec("y", "float32", ()), [IDS], shapes) == ()
