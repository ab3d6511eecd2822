"""Figures of the accuracy benchmarks: a value, the limit beside it, and the table or JSON that is printed."""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.common import versions

_COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Figure:
    """A row: what was measured of one side.

    Attributes:
        what: the figure, with its unit; rows with the same one make a table.
        side: edgebig with its settings, or a peer with its own.
        value: what was measured; ``None`` where it failed.
        limit: what edgebig means to reach, as ``>= 0.998``; empty for peers.
        digits: after the decimal point.
        note: what else there is to say, or why there is no value.
    """

    what: str
    side: str
    value: float | None
    limit: str = ""
    digits: int = 4
    note: str = ""

    @property
    def is_reached(self) -> bool | None:
        """Whether the limit holds; ``None`` without a limit."""
        if not self.limit:
            return None
        comparison, number = self.limit.split()
        return self.value is not None and bool(_COMPARISONS[comparison](self.value, float(number)))

    def cells(self) -> tuple[str, str, str, str, str]:
        """The row as text."""
        reached = {None: "", True: "yes", False: "**no**"}[self.is_reached]
        value = "none" if self.value is None else f"{self.value:.{self.digits}f}"
        return self.side, value, self.limit, reached, self.note


def tables(figures: Sequence[Figure]) -> str:
    """A Markdown table for each figure."""
    lines = []
    for what in dict.fromkeys(f.what for f in figures):
        lines += [f"### {what}", "", "| side | measured | to reach | reached | |", "|---|--:|--:|---|---|"]
        lines += [f"| {' | '.join(f.cells())} |" for f in figures if f.what == what]
        lines.append("")
    return "\n".join(lines)


def report(
    title: str,
    figures: Sequence[Figure],
    setup: Mapping[str, str],
    packages: Sequence[str],
    missing: Sequence[str] = (),
    *,
    as_json: bool,
) -> None:
    """Prints what was measured: tables, or one JSON object."""
    if as_json:
        found: list[dict[str, Any]] = [{**asdict(f), "reached": f.is_reached} for f in figures]
        whole = {"title": title, "machine": dict(setup), "versions": versions(packages)}
        print(json.dumps({**whole, "figures": found, "missing": list(missing)}))
        return
    print(f"## {title}\n")
    print("\n".join(f"{name}: {value}" for name, value in setup.items()))
    print("versions:", ", ".join(f"{name} {number}" for name, number in versions(packages).items()), end="\n\n")
    print(tables(figures), end="")
    for reason in missing:
        print(f"\nLeft out: {reason}")


def say(what: str) -> None:
    """Progress, to standard error."""
    print(f"{what} ...", file=sys.stderr, flush=True)
