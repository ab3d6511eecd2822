"""The layer report: what each layer computes with, what it costs in accuracy and in time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebig.graph import Graph
from edgebig.manifest import finite
from edgebig.steps.work import PartWork
from edgebig.verify import Layer, first_jump, layer_times

_NAMED = 3


def layers_file(part: str) -> str:
    """The bundle's file of a part's layer report."""
    return f"evidence/{part}.layers.json"


def layer_report(
    part: PartWork,
    exact: Graph,
    layers: Sequence[Layer],
    built: Path | None,
    stages: Mapping[str, Mapping[str, float]],
    work: Mapping[str, int],
) -> dict[str, Any]:
    """The report as plain data.

    Args:
        part: what was compiled.
        exact: the float graph that the layers were compared with.
        layers: of :func:`edgebig.verify.compare_layers`.
        built: the graph that runs on this machine, to measure times; ``None``: shares of the
            multiply-accumulates stand in for shares of the time.
        stages: the figures of each comparison of a stage with the one before.
        work: multiply-accumulates of the nodes of ``exact``.
    """
    golden = part.examined()
    times = layer_times(built, exact, golden.inputs) if built is not None else None
    costs: Mapping[str, float] = work if times is None else times
    total = sum(costs.values())
    jump = first_jump(layers)
    rows = [
        {
            "name": layer.name,
            "op": layer.op,
            "tensor": layer.tensor,
            "format": layer.format,
            "error": layer.error.to_json(),
            "own": layer.own.to_json(),
            "share_of_error": layer.share,
            "share_of_time": costs.get(layer.name, 0) / total if total else None,
            "seconds": times.get(layer.name, 0.0) if times is not None else None,
            "macs": work.get(layer.name, 0),
        }
        for layer in layers
    ]
    worst = sorted((x for x in layers if x.share), key=lambda x: -(x.share or 0))[:_NAMED]
    return {
        "part": part.name,
        "samples": len(golden.inputs),
        "source": golden.source,
        "time": "measured here" if times is not None else "multiply-accumulates",
        "costly": [layer.name for layer in worst],
        "first_jump": jump.name if jump is not None else None,
        "stages": {name: dict(figures) for name, figures in stages.items()},
        "layers": rows,
    }


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """A line for each of the two or three layers that cost most accuracy."""
    rows = {row["name"]: row for row in report["layers"]}
    what = "time" if report["time"] == "measured here" else "multiply-accumulates"
    lines = []
    for name in report["costly"]:
        row = rows[name]
        share = f", {row['share_of_time']:.0%} of the {what}" if row["share_of_time"] is not None else ""
        lines.append(
            f"{report['part']}: {row['share_of_error']:.0%} of the error comes from {name} ({row['op']}, "
            f"{row['format']}, own SQNR {float(row['own']['sqnr_db']):.1f} dB){share}"
        )
    return lines


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Writes it as JSON; infinities and NaN as strings, as in the manifest."""
    path.write_text(json.dumps(finite(report), indent=1, allow_nan=False) + "\n", encoding="utf-8")
