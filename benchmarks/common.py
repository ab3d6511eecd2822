"""What every benchmark uses: processes measured from outside, runs in turn, tables with a ratio in each row.

Standard library alone, so that the process that measures stays small.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LAUNCHER = Path(__file__).with_name("launcher.py")
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB on Linux


class CommandFailed(RuntimeError):
    """A measured command ended with an error; the message holds the end of its output."""


@dataclass(frozen=True)
class Cost:
    """What a process, or several one after the other, took.

    Attributes:
        seconds: wall time from start to exit.
        cpu_seconds: processor time, user and system, of all threads, and of the processes that it waited for;
            other work on the machine lengthens it far less than wall time.
        peak_bytes: largest resident memory of the process or of a process that it started and waited for,
            as the operating system counts it (``ru_maxrss`` of wait4); of several the largest, not the sum.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    def then(self, other: Cost) -> Cost:
        """The cost of this and, after it, the other."""
        peak = max(self.peak_bytes, other.peak_bytes)
        return Cost(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds, peak)


def measure(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Cost:
    """Runs a command in a fresh process and measures it from outside.

    Args:
        command: program and arguments.
        env: added to this process's environment.

    Raises:
        CommandFailed: it could not be started, or its exit code is not 0.
    """
    with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log")
        started = subprocess.run(
            [sys.executable, "-I", str(_LAUNCHER), str(result), str(log), *map(str, command)],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
        )
        if started.returncode != 0:
            raise CommandFailed(f"cannot start {command[0]}: {started.stderr.strip().splitlines()[-1]}")
        found = json.loads(result.read_text(encoding="utf-8"))
        if found["exit"] != 0:
            tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise CommandFailed(f"{' '.join(map(str, command))} ended with exit code {found['exit']}:\n{tail}")
    return Cost(found["seconds"], found["cpu_seconds"], found["maxrss"] * _MAXRSS_UNIT)


def in_turn(sides: Mapping[str, Callable[[], Cost]], runs: int) -> dict[str, list[Cost]]:
    """Measures every side ``runs`` times, A B A B, so that a slow minute of the machine meets all of them."""
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, run in sides.items():
            costs[name].append(run())
    return costs


def typical(costs: Sequence[Cost]) -> Cost:
    """The median of each figure by itself."""
    return Cost(
        median(c.seconds for c in costs),
        median(c.cpu_seconds for c in costs),
        int(median(c.peak_bytes for c in costs)),
    )


@dataclass(frozen=True)
class Row:
    """One figure of both sides; less is better in every row.

    Attributes:
        figure: what it is, with its unit.
        ours: edgebig's.
        theirs: the peer's.
        digits: after the decimal point.
        noise: a value below it is zero for this figure.
    """

    figure: str
    ours: float
    theirs: float
    digits: int = 1
    noise: float = 0.0

    @property
    def ratio(self) -> float | None:
        """Ours over theirs: below 1 edgebig is ahead. ``None`` where theirs is zero."""
        return self.ours / self.theirs if self.theirs > self.noise else None

    def cells(self) -> tuple[str, str, str, str]:
        """The row as text."""
        ratio = self.ratio
        return (self.figure, self._text(self.ours), self._text(self.theirs), "-" if ratio is None else f"{ratio:.2f}")

    def _text(self, value: float) -> str:
        return f"< {self.noise:g}" if value < self.noise else f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Comparison:
    """A model in one precision against one peer.

    Attributes:
        title: model and precision.
        peer: the peer and its settings.
        rows: the figures.
        runs: seconds of each single run of each side's compile, to see how far they scatter.
    """

    title: str
    peer: str
    rows: tuple[Row, ...]
    runs: dict[str, tuple[float, ...]]

    def text(self) -> str:
        """A Markdown table under a heading, and the single runs below it."""
        cells = [("", "edgebig", "peer", "edgebig / peer"), *(row.cells() for row in self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(4)]
        lines = [_line(line, widths) for line in cells]
        rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
        runs = "; ".join(f"{side} {', '.join(f'{s:.2f}' for s in found)}" for side, found in self.runs.items())
        table = [lines[0], rule, *lines[1:]]
        return "\n".join([f"### {self.title}", "", f"Peer: {self.peer}.", "", *table, "", f"Single runs, s: {runs}."])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "rows": [{**asdict(row), "ratio": row.ratio} for row in self.rows]}


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return f"| {' | '.join(padded)} |"


def machine() -> dict[str, str]:
    """The processor, its cores, memory and the system."""
    return {
        "processor": _processor(),
        "cores": str(cores()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load before": f"{os.getloadavg()[0]:.2f} (mean of the last minute; other work makes every time uncertain)",
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Python's version and that of every package that is installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The model's name, with the INT8 instructions that decide how fast INT8 is."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(reversed([(a.strip(), b.strip()) for a, _, b in (line.partition(":") for line in text.splitlines())]))
    flags = fields.get("flags", fields.get("Features", "")).split()
    notable = [f for f in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm") if f in flags]
    family = f"family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    return ", ".join(part for part in (fields.get("model name", platform.machine()), family, " ".join(notable)) if part)
