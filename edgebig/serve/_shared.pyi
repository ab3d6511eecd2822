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

    def take(self, first: int, stride: int, count: int, next: int, /) -> int:
        """The number of a slot whose request is the server's to run now: in turn, from ``next`` on; -1 without one.

        Args:
            first, stride, count: where the slots lie.
        """

    def answer(self, place: int, status: int, message_length: int, start_ns: int, ran_ns: int, /) -> bool:
        """Counts a request and hands its slot back to the client, which is woken up.

        Args:
            place: of the slot, whose outputs and message are written.
            status, message_length, ran_ns: what the slot then says.
            start_ns: of ``CLOCK_MONOTONIC``, when the server began with it.

        Returns:
            Whether there is a client: the slot of one that has gone is the server's to free.
        """

def bin_of(nanoseconds: int, /) -> int:
    """The bin of a time in the segment's histograms: four in each doubling, from 256 ns on."""
