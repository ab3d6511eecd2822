"""Which inputs are refused, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import runnets
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebig.errors import InputError
from edgebig.runtime import load
from edgebig.runtime.checks import InputCheck
from edgebig.spec import TensorSpec

CHECK = InputCheck(
    [
        TensorSpec("ids", "int64", ("batch", "tokens")),
        TensorSpec("mask", "int64", ("batch", "tokens")),
        TensorSpec("pixels", "float32", ("batch", 3, 4, None)),
        TensorSpec("scale", "float16", ()),
    ]
)


def fitting() -> dict[str, Any]:
    return {
        "ids": np.zeros((2, 5), np.int64),
        "mask": np.ones((2, 5), np.int64),
        "pixels": np.zeros((2, 3, 4, 9), np.float32),
        "scale": np.array(1, np.float16),
    }


def test_of_fixed_shapes_it_is_known_before_the_first_call_what_passes() -> None:
    specs = [TensorSpec("a", "float32", (2, 3)), TensorSpec("b", "bool", ())]
    inputs = {"a": np.zeros((2, 3), np.float32), "b": np.array(True)}
    check = InputCheck(specs)
    check._look_closely = None  # type: ignore[assignment]
    assert check(inputs) is inputs
    inputs["a"][0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        InputCheck(specs, check_finite=True)(inputs)
    for wrong in (np.zeros((3, 2), np.float32), np.zeros((2, 3)), np.zeros((2, 3), ">f4")):
        with pytest.raises(InputError, match="input 'a'|axis 0"):
            InputCheck(specs)({**inputs, "a": wrong})
    with pytest.raises(InputError, match="which NumPy lacks"):
        InputCheck([TensorSpec("a", "bfloat16", (2,))])({"a": np.zeros(2, np.float32)})


def test_fitting_arrays_pass_unchanged() -> None:
    inputs = fitting()
    assert CHECK(inputs) is inputs
    transposed = np.zeros((9, 4, 3, 2), np.float32).T
    assert CHECK({**inputs, "pixels": transposed})["pixels"] is transposed


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "ids",
            [[1, 2]],
            "input 'ids' must be a NumPy array (int64 batchxtokens), found list: "
            "pass np.asarray(value, dtype=np.int64)",
        ),
        (
            "scale",
            np.float16(1),
            "input 'scale' must be a NumPy array (float16 scalar), found float16: "
            "pass np.asarray(value, dtype=np.float16)",
        ),
        (
            "pixels",
            np.zeros((2, 3, 4, 9)),
            "input 'pixels' must be float32 batchx3x4x?, found float64 2x3x4x9: convert it with .astype(np.float32)",
        ),
        (
            "ids",
            np.array([[1], [2, 3]], dtype=object),
            "input 'ids' must be int64 batchxtokens, found an array of Python objects (object 2x1): "
            "its rows may differ in length",
        ),
        (
            "pixels",
            np.zeros((3, 4, 9), np.float32),
            "input 'pixels' must have 4 axes (float32 batchx3x4x?), found 3 (3x4x9)",
        ),
        (
            "pixels",
            np.zeros((2, 4, 3, 9), np.float32),
            "axis 1 of input 'pixels' must be 3 (float32 batchx3x4x?), found 4 (2x4x3x9)",
        ),
        (
            "mask",
            np.ones((2, 6), np.int64),
            "the axis 'tokens' must be of one size: input 'ids' has 5, input 'mask' has 6 (axis 1 of 2x6)",
        ),
        (
            "pixels",
            np.zeros((3, 3, 4, 9), np.float32),
            "the axis 'batch' must be of one size: input 'ids' has 2, input 'pixels' has 3 (axis 0 of 3x3x4x9)",
        ),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any, message: str) -> None:
    if name == "ids" and isinstance(value, np.ndarray) and value.dtype == object:
        value = value.reshape(2, 1)
    with pytest.raises(InputError) as caught:
        CHECK({**fitting(), name: value})
    assert str(caught.value) == message
    assert caught.value.exit_code == 15


def test_names_that_are_missing_or_unknown_are_listed() -> None:
    inputs = fitting()
    inputs["image"] = inputs.pop("pixels")
    takes = "the model takes ids: int64 batchxtokens, mask: int64 batchxtokens, pixels: float32 batchx3x4x?, "
    takes += "scale: float16 scalar; of the inputs given: "
    with pytest.raises(InputError) as caught:
        CHECK(inputs)
    assert str(caught.value) == takes + "pixels missing; image unknown"
    with pytest.raises(InputError) as caught:
        CHECK({})
    assert str(caught.value) == takes + "ids, mask, pixels, scale missing"
    with pytest.raises(InputError) as caught:
        CHECK({**fitting(), "more": 1})
    assert str(caught.value) == takes + "more unknown"
    with pytest.raises(InputError, match=r"^inputs must be a dict of arrays by name \(ids: .*\), found list$"):
        CHECK([1])  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_types_that_numpy_lacks_are_refused(dtype: str) -> None:
    check = InputCheck([TensorSpec("x", dtype, (2,))])
    expected = f"input 'x' is {dtype}, which NumPy lacks: compile the model with float32 or float16 inputs"
    for array in (np.zeros(2, np.float64), np.zeros(2, np.uint8)):
        with pytest.raises(InputError) as caught:
            check({"x": array})
        assert str(caught.value) == expected


DIMS = st.one_of(st.integers(1, 3), st.sampled_from(["a", "b"]), st.none())


@settings(suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
@given(
    specs=st.lists(st.lists(DIMS, max_size=3), min_size=1, max_size=3),
    shapes=st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=3, max_size=3),
)
def test_shapes_pass_exactly_when_one_size_for_each_name_explains_them(
    specs: list[list[Any]], shapes: list[list[int]]
) -> None:
    pairs = list(zip(specs, shapes, strict=False))
    fits = all(len(spec) == len(shape) for spec, shape in pairs)
    if fits:
        sizes = {(dim, size) for spec, shape in pairs for dim, size in zip(spec, shape, strict=True) if dim is not None}
        fits = all(dim == size for dim, size in sizes if isinstance(dim, int))
        names = [dim for dim, _ in sizes if isinstance(dim, str)]
        fits = fits and len(names) == len(set(names))
    check = InputCheck([TensorSpec(f"x{i}", "float32", tuple(spec)) for i, spec in enumerate(specs)])
    inputs = {f"x{i}": np.zeros(shape, np.float32) for i, (_, shape) in enumerate(pairs)}
    try:
        check(inputs)
        passed = True
    except InputError:
        passed = False
    assert passed == fits


@given(
    specs=st.lists(st.lists(DIMS, max_size=3), min_size=1, max_size=3),
    calls=st.lists(st.lists(st.lists(st.integers(1, 2), max_size=3), min_size=3, max_size=3), min_size=2, max_size=8),
    dtypes=st.lists(st.sampled_from(["float32", "float64"]), min_size=8, max_size=8),
)
def test_what_passed_before_changes_no_outcome(
    specs: list[list[Any]], calls: list[list[list[int]]], dtypes: list[str]
) -> None:
    found = [TensorSpec(f"x{i}", "float32", tuple(spec)) for i, spec in enumerate(specs)]
    used = InputCheck(found)

    def outcome(check: InputCheck, inputs: dict[str, Any]) -> str:
        try:
            assert check(inputs) is inputs
            return "fits"
        except InputError as error:
            return str(error)

    for shapes, dtype in zip(calls * 2, dtypes * 2, strict=False):
        inputs = {spec.name: np.zeros(shape, dtype) for spec, shape in zip(found, shapes, strict=False)}
        assert outcome(used, inputs) == outcome(InputCheck(found), inputs)


def test_no_end_of_shapes_is_remembered() -> None:
    check = InputCheck([TensorSpec("x", "float32", ("batch",))])
    for size in range(1000):
        array = {"x": np.zeros(size, np.float32)}
        assert check(array) is array and check(array) is array
    assert len(check._passed) == 64


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (onnx.TensorProto.BFLOAT16, "input 'x' is bfloat16, which NumPy lacks: compile the model with float32 or"),
        (onnx.TensorProto.STRING, "input 'x' is text, sessions take numbers: leave the steps that read text out"),
    ],
)
def test_every_call_says_of_a_type_that_it_is_not_taken(tmp_path: Path, kind: int, message: str) -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    tiny.write_bundle(tmp_path / "b", {"model": runnets.model([node], [("x", kind, [2])], [("y", kind, [2])])})
    with load(tmp_path / "b", threads=1) as session:
        for call in (lambda: session.run({"x": np.zeros(2)}), session.bind, session.warm_up):
            with pytest.raises(InputError, match=message):
                call()
