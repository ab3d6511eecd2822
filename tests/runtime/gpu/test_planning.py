"""Buffers, profiles, recently used keys and pools: plain arithmetic and order, on any input."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebig.errors import BackendError, InputError
from edgebig.runtime.gpu.buffers import ALIGNMENT, byte_count, dtype_name, grown, host_view
from edgebig.runtime.gpu.graphs import Recent, SeenBefore
from edgebig.runtime.gpu.pool import Pool
from edgebig.runtime.gpu.profiles import Span, choose_profile

SIZES = st.integers(0, 1 << 40)
SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)


@given(SIZES, SIZES)
def test_a_buffer_holds_what_is_needed_and_never_shrinks(capacity: int, needed: int) -> None:
    new = grown(capacity, needed)
    assert new >= max(needed, capacity)
    if needed <= capacity:
        assert new == capacity
    else:
        assert new % ALIGNMENT == 0 and new < max(needed, capacity * 3 // 2) + ALIGNMENT


def test_shapes_that_grow_one_by_one_cost_few_allocations() -> None:
    capacity, allocations = 0, 0
    for needed in range(1, 1_000_001, 100):
        if (new := grown(capacity, needed)) != capacity:
            capacity, allocations = new, allocations + 1
    assert allocations == 21  # the logarithm of 1e6 / 256 to the base 1.5, and the first


@given(SHAPES, st.sampled_from(["float32", "float16", "int64", "bool", "uint8"]))
def test_bytes_are_numpys(shape: tuple[int, ...], dtype: str) -> None:
    array = np.ones(shape, dtype)
    assert byte_count(dtype, shape) == array.nbytes
    view = host_view(array.ctypes.data, array.dtype, shape)
    assert view.shape == array.shape and np.array_equal(view, array)


def test_types_below_a_byte_round_up_and_unknown_ones_are_refused() -> None:
    assert byte_count("int4", (3,)) == 2
    assert dtype_name("BF16") == "bfloat16"
    with pytest.raises(BackendError, match="type FP2, which this edgebig does not know"):
        dtype_name("FP2")
    with pytest.raises(ValueError, match="without a size"):
        byte_count("float32", (2, -1))


@given(st.lists(st.tuples(*[st.integers(1, 32)] * 3).map(sorted), min_size=1, max_size=4), st.integers(1, 32))
def test_the_profile_chosen_takes_the_shape_and_none_is_nearer(spans: list[list[int]], size: int) -> None:
    profiles = [{"x": Span((low, 3), (best, 3), (high, 3))} for low, best, high in spans]
    fitting = [index for index, (low, _, high) in enumerate(spans) if low <= size <= high]
    if not fitting:
        with pytest.raises(InputError, match=f"'x' has the shape {size}x3"):
            choose_profile(profiles, {"x": (size, 3)})
        return
    chosen = choose_profile(profiles, {"x": (size, 3)})
    assert chosen in fitting
    distance = [abs(np.log(size / spans[index][1])) for index in fitting]
    assert abs(np.log(size / spans[chosen][1])) <= min(distance) + 1e-8


def test_equal_profiles_are_not_changed_and_inputs_that_fit_only_apart_are_told() -> None:
    same = {"x": Span((1,), (2,), (4,))}
    assert choose_profile([same, same], {"x": (3,)}, current=1) == 1
    apart = [
        {"a": Span((1,), (1,), (1,)), "b": Span((1,), (1,), (1,))},
        {"a": Span((2,), (2,), (2,)), "b": Span((2,), (2,), (2,))},
    ]
    with pytest.raises(InputError, match=r"no profile of the engine takes a 1, b 2 together \(profile 0: a 1, b 1;"):
        choose_profile(apart, {"a": (1,), "b": (2,)})


@given(st.lists(st.integers(0, 6)), st.integers(1, 4))
def test_the_last_used_keys_stay_and_each_other_value_is_told(keys: list[int], limit: int) -> None:
    gone: list[int] = []
    recent: Recent[int, int] = Recent(limit, gone.append)
    order: list[int] = []
    for key in keys:
        found = recent.get(key)
        assert (found is not None) == (key in order[-limit:])
        if found is None:
            recent.put(key, key)
        order = [k for k in order if k != key] + [key]
        assert len(recent) == len(order[-limit:])
    recent.clear()
    assert len(recent) == 0 and set(gone) == set(keys)


def test_seen_before_forgets_the_oldest() -> None:
    seen: SeenBefore[str] = SeenBefore(2)
    assert [seen(key) for key in "aabbcab"] == [False, True, False, True, False, False, False]


def test_a_pool_makes_no_more_than_its_limit_and_lends_each_once() -> None:
    destroyed: list[object] = []
    pool: Pool[object] = Pool(object, destroyed.append, 2)
    first, second = pool.take(), pool.take()
    assert first is not second
    got: list[object] = []
    waiting = threading.Thread(target=lambda: got.append(pool.take()))
    waiting.start()
    pool.give(second)
    waiting.join(10)
    assert got == [second]
    assert not pool.close()
    pool.give(first)
    pool.give(second)
    assert destroyed == [first, second] and pool.is_empty
    with pytest.raises(BackendError, match="closed"):
        pool.take()


def test_a_pool_that_cannot_make_another_lends_what_it_has() -> None:
    made: list[int] = []

    def make() -> int:
        if made:
            raise MemoryError
        made.append(1)
        return 1

    pool: Pool[int] = Pool(make, lambda item: None, 3)
    assert pool.take() == 1
    threading.Timer(0.05, pool.give, [1]).start()
    assert pool.take() == 1
    with pytest.raises(MemoryError):
        made.append(pool.drop(1) or 0)
        pool.take()
