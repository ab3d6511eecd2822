"""What a bundle holds and how it was made."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgebig.bundle import Bundle
from edgebig.cli.console import size_text, table
from edgebig.cli.inspect_layers import costly_lines, layer_facts
from edgebig.cli.inspect_onnx import spec_lines
from edgebig.errors import BundleError
from edgebig.units import bytes_text

_LEAST_STABLE = 5


def facts(path: Path) -> dict[str, Any]:
    """The manifest's facts, and whether each file is the one that it names, as plain data.

    Raises:
        BundleError: the manifest is damaged or of an unknown version.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest.to_json()
    problem = _problem(bundle)
    files = {name: {**asdict(file), "intact": _is_intact(bundle, name)} for name, file in bundle.manifest.files.items()}
    calibration = {
        name: _calibration(bundle, part.calibration)
        for name, part in bundle.manifest.parts.items()
        if part.calibration is not None and files[part.calibration]["intact"]
    }
    return {
        "kind": "bundle",
        "path": str(path),
        "intact": problem is None,
        "problem": problem,
        "bytes": sum(file["bytes"] for file in files.values()),
        **{key: manifest[key] for key in ("name", "precision", "target", "recipe", "source", "parts", "stages")},
        **{key: manifest[key] for key in ("versions", "created", "schema_version")},
        "calibration": calibration,
        "layers": layer_facts(bundle),
        "files": files,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    target = found["target"]
    size = size_text(found["bytes"])
    out = [f"{found['path']}: {found['name']} in {found['precision']} for {target['name']}, {size}"]
    source = found["source"]
    task = f", task {source['task']}" if source.get("task") else ""
    out += [f"made {found['created']} from {source.get('kind')} {source.get('name')}{task}"]
    out += ["every file is as it was written" if found["intact"] else f"DAMAGED: {found['problem']}"]
    for name, part in found["parts"].items():
        out += _part_lines(name, part)
        out += _calibration_lines(found["calibration"].get(name))
        out += costly_lines(found["layers"].get(name))
    marks = [[name, size_text(f["bytes"]), "" if f["intact"] else "damaged"] for name, f in found["files"].items()]
    out += ["", "files", *table(marks, right=[1], indent=2)]
    out += ["", "stages", *_stage_lines(found["stages"])]
    return [*out, "", "versions: " + ", ".join(f"{tool} {version}" for tool, version in found["versions"].items())]


def _part_lines(name: str, part: dict[str, Any]) -> list[str]:
    kinds = ", ".join(f"{count:,} {dtype}" for dtype, count in part["precision"].items()) or "none"
    out = ["", f"part {name}: opset {part['opset']}{', quantized' if part['quantized'] else ''}, weights {kinds}"]
    for engine in part["engines"]:
        hardware = " and ".join(engine["hardware"])
        more = _engine_traits(engine)
        out.append(f"  engine {engine['path']}: {engine['kind']} {engine['version']} for {hardware}{more}")
    out += ["  inputs", *(f"  {line}" for line in spec_lines(part["inputs"]))]
    out += ["  outputs", *(f"  {line}" for line in spec_lines(part["outputs"]))]
    for key, shapes in part["profiles"].items():
        out.append(f"  {key}: " + ", ".join(f"{k} {'x'.join(map(str, v))}" for k, v in shapes.items()))
    for output, s in part["similarity"].items():
        figures = {k: float(v) for k, v in s.items()}  # "Infinity" is a string in the manifest
        out.append(f"  {output} against the original: cosine {figures['cosine']:.6f}, SQNR {figures['sqnr_db']:.1f} dB")
    return out


def _engine_traits(engine: dict[str, Any]) -> str:
    """What was asked of the builder, as far as it shows when the engine is loaded."""
    streaming = engine["weight_streaming"]
    kept = "" if streaming in (None, "auto") else f", {bytes_text(streaming)} of them on the GPU"
    traits = (
        (engine["dla"] is not None, f"DLA core {engine['dla']}"),
        (engine["version_compatible"], "version-compatible"),
        (engine["hardware_compatible"], "hardware-compatible"),
        (engine["stripped"], "without weights"),
        (streaming is not None, f"streaming weights{kept}"),
    )
    return "".join(f", {text}" for is_so, text in traits if is_so)


def _calibration(bundle: Bundle, name: str) -> dict[str, Any]:
    """The calibration report without its histograms, which only the file holds."""
    report: dict[str, Any] = json.loads(bundle.file(name).read_text(encoding="utf-8"))
    report.pop("ranges", None)
    for tensor in report.get("tensors", {}).values():
        tensor.pop("histogram", None)
    return report


def _calibration_lines(report: dict[str, Any] | None) -> list[str]:
    if report is None:
        return []
    out = [f"  calibrated on {report['samples']} samples of {report['source']}: {', '.join(report['methods'])}"]
    tensors = report["tensors"]
    moved = {name: t["moved"] for name, t in tensors.items() if t["moved"] is not None}
    for name in sorted(moved, key=lambda n: -moved[n])[:_LEAST_STABLE]:
        low, high = tensors[name]["min"], tensors[name]["max"]
        out.append(f"    {name}: {float(low):.4g} to {float(high):.4g}, halves of the data differ by {moved[name]:.0%}")
    return [*out, *(f"    warning: {line}" for line in report.get("warnings", [])[:_LEAST_STABLE])]


def _stage_lines(stages: list[dict[str, Any]]) -> list[str]:
    out = []
    for stage in stages:
        peak = size_text(stage["peak_memory_bytes"])
        out.append(f"  {stage['name']:<10} {stage['seconds']:7.1f} s  peak memory {peak:>9}")
        out += [f"      {note}" for note in stage["notes"]]
        out += [f"      left: {line}" for line in stage["declined"]]
    return out


def _problem(bundle: Bundle) -> str | None:
    try:
        bundle.verify()
    except BundleError as error:
        return str(error)
    return None


def _is_intact(bundle: Bundle, name: str) -> bool:
    try:
        bundle.file(name)
    except BundleError:
        return False
    return True
