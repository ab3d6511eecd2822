"""What earlier builds on this device took, step by step, and what that says of the time that is left.

The figures lie beside the timing caches, in ``builds.json``. They only make an estimate: a file that cannot be read or
written is passed over.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgebig.device.store import engines_folder, write_synced

_KEPT = 200
"""Builds that are kept at most, the newest."""

_APART = 0.005
"""Marks lie at least this share of their build apart."""

_SURE = 0.1
"""From this share of a build on its own pace says more than what the earlier one took."""

Marks = dict[str, float]
"""The share of a build that was over when a step of it was: ``Timing graph nodes 1: 3`` is the third step of that phase
when it came first."""


@dataclass(frozen=True)
class PastBuild:
    """One build on this device.

    Attributes:
        flavour, version: the builder's.
        device: the GPU's name and compute capability, as timing caches have it.
        graph: the SHA-256 of the graph.
        nodes: how many the graph has; ``None`` if unknown.
        warm: whether a timing cache was read.
        seconds: that it took.
        marks: where its steps lay.
    """

    flavour: str
    version: str
    device: str
    graph: str
    nodes: int | None
    warm: bool
    seconds: float
    marks: Marks = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PastBuild:
        """The inverse of ``asdict``; raises ``TypeError``, ``ValueError`` or ``KeyError`` for anything else."""
        marks = {str(name): float(share) for name, share in data["marks"].items()}
        build = cls(**{**data, "seconds": float(data["seconds"]), "marks": marks})
        if build.seconds <= 0 or not (build.nodes is None or isinstance(build.nodes, int)):
            raise ValueError(build)
        return build


@dataclass(frozen=True)
class Expected:
    """What a build may take: ``seconds`` is ``None`` where nothing is known; ``basis`` says what it comes from."""

    seconds: float | None = None
    basis: str = ""
    marks: Marks = field(default_factory=dict)


class History:
    """The builds that this device remembers."""

    def __init__(self, path: Path | None = None) -> None:
        """``path`` is the file; the one beside the timing caches by default."""
        self.path = path or timing_folder() / "builds.json"

    def builds(self) -> list[PastBuild]:
        """Those that can be read, the oldest first."""
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))["builds"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        found = []
        for row in rows if isinstance(rows, list) else []:
            with suppress(TypeError, ValueError, KeyError, AttributeError):
                found.append(PastBuild.from_json(row))
        return found

    def add(self, build: PastBuild) -> None:
        """Remembers one more."""
        rows = [asdict(known) for known in [*self.builds(), build][-_KEPT:]]
        with suppress(OSError):
            write_synced(self.path, json.dumps({"builds": rows}).encode())

    def expect(self, like: PastBuild) -> Expected:
        """What a build like this one may take; its ``seconds`` and ``marks`` are not read.

        The last build of the same graph by the same builder counts, with a timing cache or without as this one. Else
        the seconds for each node of other graphs when they were built here first, in the middle of what they took.
        """
        same = [
            b for b in self.builds() if (b.flavour, b.version, b.device) == (like.flavour, like.version, like.device)
        ]
        again = [b for b in same if b.graph == like.graph]
        if again:
            alike = [b for b in again if b.warm == like.warm]
            last = (alike or again)[-1]
            other = "" if alike else f" with{'' if last.warm else 'out'} a timing cache"
            return Expected(last.seconds, f"an earlier build here{other}", last.marks)
        first: dict[str, PastBuild] = {}
        for build in same:
            first.setdefault(build.graph, build)
        paces = [build.seconds / build.nodes for build in first.values() if build.nodes]
        if paces and like.nodes:
            models = "another model" if len(paces) == 1 else f"{len(paces)} other models"
            return Expected(statistics.median(paces) * like.nodes, f"what {models} took here")
        return Expected()


class TimeLeft:
    """Follows a build and says how long it may still take."""

    def __init__(self, expected: Expected, *, now: Callable[[], float] = time.monotonic) -> None:
        self._expected, self._now = expected, now
        self._start = self._told_at = now()
        self._left = expected.seconds
        self._share = 0.0
        self._times: dict[str, int] = {}
        self._seen: dict[str, float] = {}

    def step(self, phase: str, done: int) -> float | None:
        """Takes a step of the builder; gives the seconds that are left, ``None`` where nothing is known.

        A step that an earlier build had too says which share of the build is over; the rest is left, at the pace of
        this build once a tenth of it is over. Steps may come far apart and in bursts, so that between such marks the
        clock runs; nothing is known once it has run out.
        """
        spent = self._now() - self._start
        if done == 1:
            self._times[phase] = self._times.get(phase, 0) + 1
        name = f"{phase} {self._times.get(phase, 1)}: {done}"
        self._seen[name] = spent
        share = self._expected.marks.get(name, 0.0)
        if share > self._share and self._expected.seconds is not None:
            self._share = share
            total = spent / share if share >= _SURE else self._expected.seconds
            self._left, self._told_at = total * (1 - share), self._now()
        if self._left is None:
            return None
        left = self._left - (self._now() - self._told_at)
        return left if left > 0 or self._share >= 1 else None

    def marks(self, seconds: float) -> Marks:
        """Where the steps lay in the build, which took so long."""
        kept: Marks = {}
        last = 0.0
        for name, spent in self._seen.items():
            share = min(spent / seconds, 1.0)
            if share - last >= _APART:
                kept[name] = last = round(share, 4)
        return kept


def timing_folder() -> Path:
    """Where timing caches and the history of builds lie: ``timing`` below :func:`engines_folder`."""
    return engines_folder() / "timing"


def span(seconds: float) -> str:
    """A time for people."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
