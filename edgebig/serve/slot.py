"""Who has a slot, and how it becomes free again: the rules that server and clients share."""

from __future__ import annotations

import os
from typing import Any

from edgebig.serve import layout as at
from edgebig.serve.segment import Segment, pid_namespace, started


def owner_word(server_namespace: int) -> int:
    """What this process claims slots with: its number, and when it began.

    A process that the server cannot see, being in another namespace, says so: it is never taken for dead.
    """
    pid = os.getpid()
    foreign = 0 if pid_namespace() == server_namespace else at.FOREIGN
    return ((started(pid) or 0) & 0xFFFFFFFF) << 32 | foreign | pid


def is_dead(owner: int) -> bool:
    """Whether the process that claimed a slot has ended."""
    pid = owner & 0xFFFFFFFF
    if pid & at.FOREIGN:
        return False
    began = started(pid)
    return not _is_hidden(pid) if began is None else began & 0xFFFFFFFF != owner >> 32


def _is_hidden(pid: int) -> bool:
    """Whether the process lives and /proc does not show it: mounted with ``hidepid``, it hides other users'."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not os.path.exists(f"/proc/{pid}")
    except (OSError, OverflowError):
        return False
    return False


def claim(segment: Segment, number: int, owner: int) -> bool:
    """Takes the slot if it is free."""
    words, place = segment.words, segment.layout.slot(number)
    if words.load64(place) != 0 or not words.swap64(place, 0, owner):
        return False
    words.store32(place + at.WAITING, 0)  # an owner that died asleep was counted
    words.store32(place + at.SLOT_STATE, at.IDLE)
    return True


def reclaim(segment: Segment, number: int, owner: int) -> bool:
    """Takes the slot from a dead owner and frees it; whether it still was that owner's."""
    if not segment.words.swap64(segment.layout.slot(number), owner, at.TAKEN_BACK):
        return False
    release(segment, number)
    return True


def release(segment: Segment, number: int) -> None:
    """Gives up the slot, whatever its state; whoever calls this has it.

    A request that the server has not begun is withdrawn. One that is running goes on, and the server frees the slot:
    the state alone decides which of both does it.
    """
    words, place = segment.words, segment.layout.slot(number)
    state = place + at.SLOT_STATE
    if words.swap32(state, at.REQUEST, at.IDLE) or not words.swap32(state, at.RUNNING, at.DROPPED):
        free(words, place)


def free(words: Any, place: int) -> None:
    """Makes the slot free and wakes those that wait for one."""
    words.store64(place, 0)
    words.add32(at.RELEASED, 1)
    if words.load32(at.WANTING):
        words.wake(at.RELEASED)
