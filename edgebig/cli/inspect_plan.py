"""The precision plan of a bundle: what each layer computes with, and why."""

from __future__ import annotations

import json
from typing import Any

from edgebig.bundle import Bundle
from edgebig.cli.console import table
from edgebig.errors import BundleError

_HEADER = ["layer", "operator", "format", "weight", "scale", "zero point", "loss alone", "saves", "reason"]
_RIGHT = {"scale", "zero point", "loss alone", "saves"}
_ALONE = "drop_alone_"


def plan_facts(bundle: Bundle) -> dict[str, Any]:
    """The plan of each part that has one, as its file holds it.

    Raises:
        BundleError: the bundle has none, or a file of it is damaged.
    """
    files = {name: f"evidence/{name}.plan.json" for name in bundle.manifest.parts}
    held = {name: file for name, file in files.items() if file in bundle.manifest.files}
    if not held and not dla_facts(bundle):
        raise BundleError(f"{bundle.path} has no plan: it is not quantized ({bundle.manifest.precision})")
    return {name: json.loads(bundle.file(file).read_text(encoding="utf-8")) for name, file in held.items()}


def plan_json(plans: dict[str, Any]) -> dict[str, Any]:
    """The plan itself where there is one, as ``compile --plan`` takes it; else each part's by its name.

    A bundle for a DLA that is not quantized has none.
    """
    found: dict[str, Any] = next(iter(plans.values())) if len(plans) == 1 else plans
    return found


def plan_lines(plans: dict[str, Any]) -> list[str]:
    """For people, a table for each part."""
    return [line for name, plan in plans.items() for line in [*_part_lines(name, plan), ""]][:-1]


def dla_facts(bundle: Bundle) -> dict[str, Any]:
    """What the GPU runs beside a DLA, for each part that was compiled for one.

    Raises:
        BundleError: a file of it is damaged.
    """
    files = {name: f"evidence/{name}.dla.json" for name in bundle.manifest.parts}
    held = {name: file for name, file in files.items() if file in bundle.manifest.files}
    return {name: json.loads(bundle.file(file).read_text(encoding="utf-8")) for name, file in held.items()}


def dla_table(found: dict[str, Any]) -> list[str]:
    """For people, a table for each part."""
    lines = []
    for name, facts in found.items():
        taken = facts["layers"] - len(facts["on_gpu"])
        rest = "the GPU runs the others" if facts["gpu_fallback"] else "without the GPU, the others fail the build"
        lines.append(f"part {name}: DLA core {facts['core']} takes {taken} of {facts['layers']} layers; {rest}")
        rows = [[row["node"], row["op"], row["reason"]] for row in facts["on_gpu"]]
        lines += table([["not on the DLA", "operator", "reason"], *rows], indent=2) if rows else []
    return lines


def _part_lines(name: str, plan: dict[str, Any]) -> list[str]:
    layers = plan["layers"]
    quantized = sum(layer["format"] != "float" for layer in layers)
    rows = [_HEADER, *(_row(layer, plan["activations"]) for layer in layers)]
    # without a search there are no figures
    kept = [i for i, title in enumerate(_HEADER) if any(row[i] for row in rows[1:]) or title == "reason"]
    right = [place for place, i in enumerate(kept) if _HEADER[i] in _RIGHT]
    out = [f"part {name}: {plan['precision']} for {plan['target']}, {quantized} of {len(layers)} layers quantized"]
    out += [f"  repaired: {line}" for line in plan["repairs"]]
    return out + table([[row[i] for i in kept] for row in rows], right=right, indent=2)


def _row(layer: dict[str, Any], activations: dict[str, Any]) -> list[str]:
    read = activations.get(layer.get("input", ""))
    scale, zero = ("", "") if read is None else (f"{read['scale']:.4g}", str(read["zero_point"]))
    figures = layer.get("measured", {})
    how = [layer["format"], layer.get("weight", "")]
    return [
        layer["node"],
        layer.get("op", ""),
        *how,
        scale,
        zero,
        _loss(layer["format"], figures),
        _time(figures.get("seconds_saved")),
        layer.get("reason", ""),
    ]


def _loss(fmt: str, figures: dict[str, Any]) -> str:
    """In its format, or the least of those that were tried on a layer that stays float."""
    tried = {k.removeprefix(_ALONE): float(v) for k, v in figures.items() if k.startswith(_ALONE)}
    if not tried:
        return ""
    return f"{tried.get(fmt, min(tried.values())):.2g}"  # "Infinity" is a string in the file


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e6 * seconds:.1f} us" if seconds > 1e-8 else "nothing"
