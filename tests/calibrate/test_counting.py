"""The compiled scan and NumPy's give the same extremes and counts for any values."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("onnx_ir")

from edgebig.calibrate import counting
from edgebig.calibrate.counting import HALF, extremes, extremes_with_numpy, scan, scan_with_numpy
from edgebig.calibrate.histogram import exponent_for

Array = np.ndarray[Any, Any]
NUMBERS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 2.0**-120, -(2.0**-121), 1e38, -1e38, 4096.0, -4096.0]),
)
VALUES = arrays(np.float32, st.integers(1, 1100), elements=NUMBERS, fill=NUMBERS)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Without a C compiler there is nothing to compare; where CI=true there is one."""
    if not counting.IS_COMPILED:
        reason = "edgebig was installed without a C compiler: edgebig.calibrate._counting is not built"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def both(values: Array, scale: float) -> tuple[Array, Array]:
    start = np.arange(2 * HALF, dtype=np.int64)
    compiled, plain = start.copy(), start.copy()
    assert scan(values, scale, compiled) == scan_with_numpy(values, scale, plain)
    return compiled - start, plain - start


@settings(deadline=None, max_examples=300)
@given(VALUES, st.integers(0, 12))
@example(np.float32([-1e-45, 0.0, -0.0, 1e-45, 3e38]), 0)
def test_counts_are_those_of_numpy(values: Array, wider: int) -> None:
    exponent = exponent_for(float(values.min()), float(values.max()))
    scale = math.ldexp(1.0, -min((exponent or 0) + wider, 120))
    compiled, plain = both(values, scale)
    np.testing.assert_array_equal(compiled, plain)
    assert compiled.sum() == values.size


@pytest.mark.parametrize("kind", ["normal", "relu", "constant"])
def test_of_many_values(kind: str) -> None:
    values = np.random.default_rng(0).normal(size=(3, 7, 50_001)).astype(np.float32)
    values = {"normal": values, "relu": np.maximum(values, 0), "constant": np.ones_like(values)}[kind]
    compiled, plain = both(values, 512.0)
    np.testing.assert_array_equal(compiled, plain)
    turned = values.transpose(2, 0, 1)
    assert not turned.flags.c_contiguous
    np.testing.assert_array_equal(both(turned, 512.0)[0], plain)


@settings(deadline=None, max_examples=300)
@given(arrays(np.float32, st.integers(0, 1100), elements=st.floats(width=32), fill=st.floats(width=32)))
@example(np.float32([]))
@example(np.float32([np.nan]))
@example(-np.float32([np.nan]))
@example(np.float32([-np.inf, 0.0, np.inf]))
@example(np.float32([1e-45, -1e-45, np.finfo(np.float32).max]))
def test_extremes_are_those_of_numpy(values: Array) -> None:
    np.testing.assert_array_equal(extremes(values), extremes_with_numpy(values))
    counts, plain = np.zeros((2, 2 * HALF), np.int64)
    found, expected = scan(values, 1.0, counts), scan_with_numpy(values, 1.0, plain)
    np.testing.assert_array_equal(found[:2], extremes(values))
    assert found[2] == expected[2]
    if found[2]:
        np.testing.assert_array_equal(counts, plain)
        assert counts.sum() == values.size


@pytest.mark.parametrize("where", [0, 511, 512, 70_000, 99_999])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 4096.0, -4096.5])
def test_one_value_without_a_bin_is_found_anywhere(where: int, value: float) -> None:
    values = np.linspace(-4096, 4095.9, 100_000, dtype=np.float32)
    guarded = np.zeros(3 * 2 * HALF, np.int64)
    assert scan(values, 1.0, guarded[2 * HALF : 4 * HALF])[2]
    assert guarded[2 * HALF : 4 * HALF].sum() == 100_000
    values[where] = value
    low, high, fits = scan(values, 1.0, guarded[2 * HALF : 4 * HALF])
    assert not fits
    np.testing.assert_array_equal((low, high), extremes_with_numpy(values))
    assert not guarded[: 2 * HALF].any() and not guarded[4 * HALF :].any()


def test_other_arrays_are_refused() -> None:
    counts = np.zeros(2 * HALF, np.int64)
    with pytest.raises(TypeError, match="values: not float32"):
        scan(np.zeros(3), 1.0, counts)
    with pytest.raises(TypeError, match="values: not float32"):
        extremes(np.zeros(3))
    with pytest.raises(TypeError, match="counts: not int64"):
        scan(np.zeros(3, np.float32), 1.0, counts.astype(np.int32))
    with pytest.raises(ValueError, match=r"counts: not int64 \[8192\]"):
        scan(np.zeros(3, np.float32), 1.0, counts[:-1])
    counts.flags.writeable = False
    with pytest.raises((BufferError, ValueError), match="read-only|writable"):
        scan(np.zeros(3, np.float32), 1.0, counts)


def test_other_threads_run_meanwhile() -> None:
    values, counts = np.zeros(1 << 26, np.float32), np.zeros(2 * HALF, np.int64)
    thread = threading.Thread(target=scan, args=(values, 1.0, counts))
    turns = 0
    thread.start()
    while thread.is_alive():
        turns += 1
    thread.join()
    # with the lock held, this loop would get a turn before and one after, not thousands while it counts
    assert turns > 1000 and counts[HALF] == values.size


def test_without_the_compiled_part_numpy_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgebig.calibrate._counting", None)
    spec = importlib.util.spec_from_file_location("counting_without", counting.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    counts = np.zeros(2 * HALF, np.int64)
    assert module.scan(np.float32([-0.5, 0, 1, 1]), 2.0, counts) == (-0.5, 1.0, True)
    assert not module.IS_COMPILED and module.extremes(np.float32([])) == (math.inf, -math.inf)
    assert (counts[HALF - 1], counts[HALF], counts[HALF + 2], counts.sum()) == (1, 1, 2, 4)
