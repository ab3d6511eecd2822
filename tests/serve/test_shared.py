"""The compiled module: what a server does for each request, on a segment's bytes without any process."""

from __future__ import annotations

import mmap
from time import monotonic_ns

import pytest
import served
from hypothesis import given
from hypothesis import strategies as st

from edgebig.serve import layout as at
from edgebig.serve.segment import shared_words

FIRST, STRIDE, COUNT, SIZE = 4096, 1024, 3, 8192
PLACE = FIRST + STRIDE
ASKED = at.ENTRY.size


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    served.needs_compiled_module()


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, SIZE)


def request(memory: mmap.mmap, number: int) -> None:
    place = FIRST + number * STRIDE
    memory[place + at.ENTRIES : place + at.ENTRIES + ASKED] = bytes([number]) * ASKED
    shared_words().Words(memory).store32(place + at.SLOT_STATE, at.REQUEST)


def test_requests_are_taken_in_turn(memory: mmap.mmap) -> None:
    words = shared_words().Words(memory)
    for number in (0, 2):
        request(memory, number)
    taken = [words.next_request(FIRST, STRIDE, COUNT, 1, ASKED, 0, 0) for _ in range(3)]
    assert taken[2] is None
    assert [found and (found[0], found[2]) for found in taken[:2]] == [(2, b"\2" * ASKED), (0, b"\0" * ASKED)]
    assert [words.load32(FIRST + n * STRIDE + at.SLOT_STATE) for n in range(COUNT)] == [at.RUNNING, at.IDLE, at.RUNNING]
    assert words.load64(at.RUNNING_SINCE) == taken[0][1]


def test_there_is_no_request_in_time(memory: mmap.mmap) -> None:
    words = shared_words().Words(memory)
    start = monotonic_ns()
    assert words.next_request(FIRST, STRIDE, COUNT, 7, ASKED, 20_000_000, 5_000_000) is None
    assert monotonic_ns() - start >= 20_000_000
    assert words.load32(at.SLEEPING) == 0


def test_an_answer_is_written_counted_and_handed_over(memory: mmap.mmap) -> None:
    words, entries = shared_words().Words(memory), b"entries!"
    for status, ran in ((at.OK, 77), (at.BAD_INPUT, 0), (at.BACKEND_FAILED, 0)):
        request(memory, 1)
        found = words.next_request(FIRST, STRIDE, COUNT, 0, ASKED, 0, 0)
        words.store64(PLACE + at.SEQUENCE, 5 + status)
        assert words.answer(PLACE, status, 3, found[1], ran, 200, entries) is True
        assert words.load32(PLACE + at.SLOT_STATE) == at.DONE
        assert memory[PLACE + 200 : PLACE + 208] == entries
        fields = [words.load64(PLACE + field) for field in (at.ANSWERED, at.RUN_TIME)]
        assert fields == [5 + status, ran]
        assert [words.load32(PLACE + field) for field in (at.STATUS, at.MESSAGE_LENGTH)] == [status, 3]
        assert words.load64(at.RUNNING_SINCE) == 0
    assert [words.load64(field) for field in (at.CALLS, at.REFUSED, at.FAILED)] == [3, 1, 1]
    for times in (at.SERVICE_TIMES, at.ROUND_TRIPS):
        assert sum(words.load64(times + 8 * number) for number in range(at.BUCKETS)) == 3


def test_a_dropped_request_is_the_server_s_to_free(memory: mmap.mmap) -> None:
    words = shared_words().Words(memory)
    words.store32(PLACE + at.SLOT_STATE, at.DROPPED)
    assert words.answer(PLACE, at.OK, 0, monotonic_ns(), 0, 0, b"") is False
    assert words.load32(PLACE + at.SLOT_STATE) == at.DROPPED


@pytest.mark.parametrize(
    "slots",
    [
        (0, STRIDE, COUNT, 0, ASKED),
        (FIRST + 8, STRIDE, COUNT, 0, ASKED),
        (FIRST, STRIDE, 5, 0, ASKED),
        (FIRST, STRIDE, 0, 0, ASKED),
        (FIRST, 0, COUNT, 0, ASKED),
        (FIRST, 2**62, 4, 0, ASKED),
        (FIRST, STRIDE, COUNT, -1, ASKED),
        (FIRST, STRIDE, COUNT, 0, STRIDE),
        (FIRST, STRIDE, COUNT, 0, -1),
    ],
)
def test_slots_that_lie_outside_are_refused(memory: mmap.mmap, slots: tuple[int, ...]) -> None:
    with pytest.raises(IndexError, match="no slots|no [0-9]+ slots|no word of 64 bytes"):
        shared_words().Words(memory).next_request(*slots, 0, 0)


@pytest.mark.parametrize(
    ("place", "said", "entries"),
    [(0, 0, b""), (64, 0, b""), (PLACE + 8, 0, b""), (SIZE, 0, b""), (PLACE, -1, b"x"), (PLACE, SIZE - PLACE, b"x")],
)
def test_answers_that_lie_outside_are_refused(memory: mmap.mmap, place: int, said: int, entries: bytes) -> None:
    with pytest.raises(IndexError, match="no slot with|no word of 64 bytes"):
        shared_words().Words(memory).answer(place, at.OK, 0, 0, 0, said, entries)
    assert memory[:] == bytes(SIZE)


@given(st.integers(0, 2**62))
def test_a_time_lies_in_its_bin(time: int) -> None:
    number = shared_words().bin_of(time)
    assert 0 <= number < at.BUCKETS
    if number < at.BUCKETS - 1:
        assert time < at.bucket_ends(number)
    if number > 0:
        assert at.bucket_ends(number - 1) <= time
