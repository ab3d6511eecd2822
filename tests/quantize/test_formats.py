"""Scales, zero points and quantized weights against float64 arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgebig.calibrate.ranges import Range
from edgebig.quantize.formats import FP8, INT4, INT7, INT8, UINT8, Format, block_scales, channel_scales
from edgebig.quantize.plan import WeightChoice
from edgebig.quantize.scales import spread, weight_scales

BOUNDS = st.floats(-(2.0**60), 2.0**60, width=32).filter(lambda v: v == 0 or abs(v) > 1e-20)
INTEGERS = [INT8, INT7, UINT8, INT4]


@pytest.mark.parametrize("fmt", INTEGERS, ids=lambda f: f.name)
@settings(deadline=None, max_examples=200)
@given(a=BOUNDS, b=BOUNDS, where=st.floats(0, 1))
def test_an_error_inside_the_range_is_at_most_half_a_step(fmt: Format, a: float, b: float, where: float) -> None:
    low, high = min(a, b), max(a, b)
    scale, zero = fmt.scale_and_zero_point(Range(low, high))
    assert scale > 0 and math.isfinite(scale) and fmt.low <= zero <= fmt.high
    assert zero == 0 or not fmt.symmetric

    def restored(value: float) -> float:
        return (float(np.clip(np.rint(value / scale) + zero, fmt.low, fmt.high)) - zero) * scale

    assert restored(0.0) == 0.0
    value = low + where * (high - low)
    # the ends may fall short by the rounding of the zero point, which is half a step as well
    assert abs(restored(value) - value) <= scale * (0.5 if fmt.symmetric else 1.0) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("fmt", "found", "scale", "zero"),
    [
        (INT8, Range(-1.27, 0.5), 0.01, 0),
        (INT8, Range(2.0, 2.54), 0.02, 0),
        (UINT8, Range(0.0, 2.55), 0.01, 0),
        (UINT8, Range(-1.0, 1.55), 0.01, 100),
        (UINT8, Range(1.0, 2.55), 0.01, 0),
        (UINT8, Range(-5.1, -1.0), 0.02, 255),
        (FP8, Range(-896.0, 10.0), 2.0, 0),
        (INT4, Range(-0.7, 0.1), 0.1, 0),
    ],
)
def test_scales_and_zero_points(fmt: Format, found: Range, scale: float, zero: int) -> None:
    assert fmt.scale_and_zero_point(found) == (pytest.approx(scale), zero)


WEIGHTS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-1e4, 1e4, width=32)
)


@settings(deadline=None, max_examples=100)
@given(weight=WEIGHTS, data=st.data())
def test_int8_by_channel_is_float64s(weight: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, weight.ndim - 1))
    scale = channel_scales(weight, axis, INT8)
    assert scale.shape == (weight.shape[axis],) and scale.dtype == np.float32 and (scale > 0).all()
    broad = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    found = INT8.quantize(weight, broad)
    exact = weight.astype(np.float64) / broad.astype(np.float64)
    assert found.dtype == np.int8 and np.abs(found.astype(int)).max() <= 127
    assert np.abs(found - exact)[np.abs(weight) > 1e-20].max(initial=0) <= 0.5 + 1e-4
    largest = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis))
    np.testing.assert_allclose(scale[largest > 1e-20], largest[largest > 1e-20] / 127, rtol=1e-6)


def test_a_dead_channel_becomes_zeros_with_a_positive_scale() -> None:
    weight = np.array([[1, 0, 1e-30], [-2, 0, -1e-38]], np.float32)
    scale = channel_scales(weight, 1, INT8)
    assert scale.tolist() == [np.float32(2) / np.float32(127), 1, 1]
    assert INT8.quantize(weight, scale).tolist() == [[64, 0, 0], [-127, 0, 0]]


def test_one_scale_for_the_whole_tensor() -> None:
    assert channel_scales(np.array([[-254.0, 1], [2, 3]], np.float32), None, INT8) == 2.0


@settings(deadline=None, max_examples=100)
@given(hnp.arrays(np.float32, 16, elements=st.floats(-1e4, 1e4, width=32)))
def test_fp8_is_ml_dtypes_rounding_without_overflow(values: np.ndarray) -> None:
    scale = channel_scales(values, None, FP8)
    found = FP8.quantize(values, scale)
    assert found.dtype == ml_dtypes.float8_e4m3fn and np.isfinite(found.astype(np.float32)).all()
    np.testing.assert_array_equal(found, np.clip(values / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn))
    restored = found.astype(np.float32) * scale
    # 3 bits of mantissa, and the smallest subnormal is 2^-9
    assert (np.abs(restored - values) <= np.maximum(np.abs(values) / 16, scale * 2.0**-10) * (1 + 1e-4)).all()


def test_values_beyond_the_scale_saturate() -> None:
    for fmt, limit in ((INT8, 127), (INT7, 64), (INT4, 7), (FP8, 448)):
        values = np.array([-1e9, 0, 1e9], np.float32)
        assert fmt.quantize(values, np.float32(1)).astype(np.float32).tolist() == [-limit, 0, limit]


@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_have_scales_of_their_own(axis: int) -> None:
    weight = np.zeros((8, 8), np.float32)
    weight[0, 0], weight[7, 7], weight[4, 0], weight[0, 4] = 7, -14, 21, 28
    scale = block_scales(weight, axis, 4, INT4)
    assert scale.shape == ((2, 8) if axis == 0 else (8, 2))
    blocks = weight.reshape(2, 4, 8) if axis == 0 else weight.reshape(8, 2, 4)
    largest = np.abs(blocks).max(axis=1 if axis == 0 else 2)
    np.testing.assert_array_equal(scale, np.where(largest > 0, largest / 7, 1))


def test_the_last_block_may_be_shorter() -> None:
    assert block_scales(np.array([[7, 7, 7, 7, 14]], np.float32), 1, 4, INT4).tolist() == [[1, 2]]


@pytest.mark.parametrize("fmt", [INT8, INT7, INT4, FP8], ids=lambda f: f.name)
@settings(deadline=None, max_examples=60)
@given(
    weight=hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.floats(-8, 8, width=32)
    ),
    block=st.sampled_from([None, 2, 3, 4]),
    data=st.data(),
)
def test_mse_scales_lose_least_of_all_clippings(
    fmt: Format, weight: np.ndarray, block: int | None, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(0, weight.ndim - 1))
    choice = WeightChoice("n", 1, fmt, axis, block)
    full, found = (weight_scales(weight, replace(choice, clip=clip)) for clip in ("max", "mse"))

    def losses(scale: np.ndarray) -> np.ndarray:
        broad = spread(scale, choice, weight.shape)
        lost = np.square(weight - fmt.quantize(weight, broad).astype(np.float32) * broad)
        if block is None:
            return lost.sum(axis=tuple(i for i in range(weight.ndim) if i != axis))
        return np.add.reduceat(lost, np.arange(0, weight.shape[axis], block), axis=axis)

    assert found.shape == full.shape and found.dtype == np.float32 and (found > 0).all()
    assert (found <= full).all() and (found >= full * 0.4999).all()
    for ratio in np.linspace(1, 0.5, 26, dtype=np.float32):
        assert (losses(found) <= losses(full * ratio) * (1 + 1e-3) + 1e-12).all()


def test_a_large_weight_is_scaled_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).standard_normal((96, 40)).astype(np.float32)
    choices = [
        WeightChoice("n", 1, INT4, axis, block, clip)
        for axis in (0, 1)
        for block in (None, 16, 32)
        for clip in ("max", "mse")
    ]
    whole = [weight_scales(weight, choice) for choice in choices]
    monkeypatch.setattr("edgebig.quantize.formats._AT_ONCE", 200)
    for choice, expected in zip(choices, whole, strict=True):
        np.testing.assert_array_equal(weight_scales(weight, choice), expected)
