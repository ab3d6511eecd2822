"""Atomic words in memory that processes share, and waiting for them to change, without Python's lock."""

from typing import Any

class Words:
    """Words of 32 and 64 bits in a writable buffer, at byte offsets that are multiples of their size.

    Every operation is sequentially consistent. Values are unsigned.

    Raises:
        IndexError: an offset that lies outside, or is not aligned.
        ValueError: after :meth:`release`.
    """

    def __new__(cls, memory: Any, /) -> Words: ...
    def release(self) -> None:
        """Lets the buffer go."""

    def load32(self, offset: int, /) -> int: ...
    def load64(self, offset: int, /) -> int: ...
    def store32(self, offset: int, value: int, /) -> None: ...
    def store64(self, offset: int, value: int, /) -> None: ...
    def swap32(self, offset: int, expected: int, desired: int, /) -> bool:
        """Puts ``desired`` where ``expected`` is; whether it was there."""

    def swap64(self, offset: int, expected: int, desired: int, /) -> bool:
        """Puts ``desired`` where ``expected`` is; whether it was there."""

    def add32(self, offset: int, value: int, /) -> int:
        """Adds a signed value, modulo 2**32; the sum."""

    def wake(self, offset: int, /) -> int:
        """Wakes all that wait for the word; how many."""

    def wait_while(self, offset: int, sleepers: int, value: int, timeout_ns: int, spin_ns: int, /) -> int:
        """Waits until the word differs from ``value``: spins, then sleeps, counted in the word at ``sleepers``.

        It also ends after ``timeout_ns`` (at most 3600 s) and with a signal.

        Returns:
            The word's value.
        """

    def wait_until(self, offset: int, sleepers: int, value: int, timeout_ns: int, spin_ns: int, /) -> int:
        """As :meth:`wait_while`, until the word is ``value``."""

    def next_request(
        self, first: int, stride: int, count: int, next: int, asked: int, timeout_ns: int, spin_ns: int, /
    ) -> tuple[int, int, bytes] | None:
        """A request that is the server's to run now, waited for on the bell as by :meth:`wait_while`.

        Args:
            first, stride, count: where the slots lie.
            next: the slot to look at first; the others follow in turn.
            asked: bytes of the inputs' entries.

        Returns:
            The slot's number, when it was taken (ns of ``CLOCK_MONOTONIC``) and a copy of the inputs' entries; ``None``
            if there was no request in time.
        """

    def answer(
        self, place: int, status: int, message_length: int, start_ns: int, ran_ns: int, said: int, entries: bytes, /
    ) -> bool:
        """Counts a request and hands its slot back to the client, which is woken up.

        Args:
            place: of the slot, whose outputs and message are written.
            status, message_length, ran_ns: what the slot then says.
            start_ns: when :meth:`next_request` took it.
            said, entries: where in the slot to write the outputs' entries, and these; nothing for ``b""``.

        Returns:
            Whether there is a client: the slot of one that has gone is the server's to free.
        """

def bin_of(nanoseconds: int, /) -> int:
    """The bin of a time in the segment's histograms: four in each doubling, from 256 ns on."""
