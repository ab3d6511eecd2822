"""The layer report of a bundle, for people."""

from __future__ import annotations

import json
from typing import Any

from edgebig.bundle import Bundle
from edgebig.cli.console import table
from edgebig.errors import BundleError

_SHOWN = 40


def layer_facts(bundle: Bundle) -> dict[str, Any]:
    """The layer report of each part that has one whose file is intact."""
    found = {}
    for name in bundle.manifest.parts:
        file = f"evidence/{name}.layers.json"
        if file not in bundle.manifest.files:
            continue
        try:
            found[name] = json.loads(bundle.file(file).read_text(encoding="utf-8"))
        except (BundleError, ValueError):  # a damaged file is named elsewhere
            continue
    return found


def layer_lines(path: str, reports: dict[str, Any]) -> list[str]:
    """The layers of each part, those that cost most accuracy first.

    Raises:
        BundleError: the bundle holds no layer report.
    """
    if not reports:
        raise BundleError(f"{path} has no layer report: it is not quantized, or does not run where it was compiled")
    return [line for name, report in reports.items() for line in [*_part_lines(name, report), ""]][:-1]


def costly_lines(report: dict[str, Any] | None) -> list[str]:
    """A line for each of the layers that cost most accuracy."""
    if report is None:
        return []
    rows = {row["name"]: row for row in report["layers"]}
    return [f"  {_costly(rows[name], report['time'])}" for name in report["costly"] if name in rows]


def _part_lines(name: str, report: dict[str, Any]) -> list[str]:
    computing = [r for r in report["layers"] if float(r["own"]["sqnr_db"]) != float("inf") or r["macs"]]
    ordered = sorted(computing, key=_by_cost)
    measured = report["time"] == "measured here"
    rows = [["layer", "operator", "format", "own SQNR", "SQNR", "error", "time" if measured else "MACs"]]
    for row in ordered[:_SHOWN]:
        figures = [_decibels(row["own"]["sqnr_db"]), _decibels(row["error"]["sqnr_db"])]
        rows.append([row["name"], row["op"], row["format"], *figures, *map(_percent, _shares(row))])
    what = "time as measured where it was compiled" if measured else "no time was measured: shares of the arithmetic"
    out = [f"part {name}: {len(report['layers'])} layers on {report['samples']} inputs; {what}"]
    out += [f"  {_costly(r, report['time'])}" for n in report["costly"] for r in computing if r["name"] == n]
    out += table(rows, right=[3, 4, 5, 6], indent=2)
    left = len(ordered) - _SHOWN
    return [*out, f"  {left} more layers: --json has them all"] if left > 0 else out


def _by_cost(row: dict[str, Any]) -> tuple[float, float]:
    return -(row["share_of_error"] or 0.0), float(row["own"]["sqnr_db"])


def _shares(row: dict[str, Any]) -> tuple[float | None, float | None]:
    return row["share_of_error"], row["share_of_time"]


def _costly(row: dict[str, Any], time: str) -> str:
    what = "time" if time == "measured here" else "arithmetic"
    share = _percent(row["share_of_error"])
    own = _decibels(row["own"]["sqnr_db"])
    return (
        f"{share} of the error comes from {row['name']} ({row['op']} in {row['format']}, own SQNR {own}), "
        f"which has {_percent(row['share_of_time'])} of the {what}"
    )


def _decibels(value: float | str) -> str:
    number = float(value)  # "Infinity" is a string in the file
    return "exact" if number == float("inf") else "broken" if number == float("-inf") else f"{number:.1f} dB"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
