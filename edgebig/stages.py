"""Times the stages of a compile and tells a listener of them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgebig.bundle import Stage

NAMES = ("source", "graph", "calibrate", "quantize", "build", "verify")


@dataclass(frozen=True)
class Event:
    """Something that happened in a stage.

    Attributes:
        kind: ``start`` and ``end`` of a stage, a ``note`` of what was done, a ``declined`` of what was
            not and why, or ``progress`` that the next one replaces.
        number: of the stage, from 1.
        total: number of stages.
        stage: its name.
        text: for people.
        seconds: that the stage took, at its ``end``.
    """

    kind: Literal["start", "note", "declined", "progress", "end"]
    number: int
    total: int
    stage: str
    text: str = ""
    seconds: float = 0.0


Listener = Callable[[Event], None]


@dataclass
class StageNotes:
    """Collects what a stage says of itself."""

    name: str
    listener: Listener
    notes: list[str] = field(default_factory=list)
    declined: list[str] = field(default_factory=list)

    def note(self, *lines: str) -> None:
        """Says what was done."""
        self.notes += lines
        self._tell("note", lines)

    def decline(self, *lines: str) -> None:
        """Says what was left, and why."""
        self.declined += lines
        self._tell("declined", lines)

    def progress(self, line: str) -> None:
        """Says how far it is; not kept."""
        self._tell("progress", (line,))

    def _tell(self, kind: Literal["note", "declined", "progress"], lines: tuple[str, ...]) -> None:
        for line in lines:
            self.listener(Event(kind, NAMES.index(self.name) + 1, len(NAMES), self.name, line))


class StageLog:
    """Runs stages and keeps how each went."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener or (lambda event: None)
        self.stages: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[StageNotes]:
        """One stage; on success it is kept with its seconds and the peak memory of this process."""
        number, total = NAMES.index(name) + 1, len(NAMES)
        self._listener(Event("start", number, total, name))
        notes = StageNotes(name, self._listener)
        _forget_peak()
        start = time.perf_counter()
        yield notes
        seconds = time.perf_counter() - start
        self.stages.append(Stage(name, round(seconds, 3), _peak_bytes(), tuple(notes.notes), tuple(notes.declined)))
        self._listener(Event("end", number, total, name, seconds=seconds))


def _forget_peak() -> None:
    """Linux keeps the peak since this was written; elsewhere the peak is that of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak_bytes() -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
