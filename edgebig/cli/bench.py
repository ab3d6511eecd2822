"""``edgebig bench``: how fast a bundle runs on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgebig.cli.console import guarded_stdout, print_json, table
from edgebig.errors import BackendError, BundleError

if TYPE_CHECKING:
    import numpy as np

    from edgebig.bundle import Bundle
    from edgebig.runtime import Session

_LAYERS_SHOWN = 20

_EPILOG = """\b
Examples:
  edgebig bench model.bundle
  edgebig bench model.bundle --seconds 10 --threads 1
  edgebig bench model.bundle --layers
  edgebig bench t5.bundle --part encoder_model --json

A bundle holds the float32 original to compare with when it was compiled with --keep-original."""


@click.command(epilog=_EPILOG, short_help="Measures how fast BUNDLE runs here.")
@click.argument("bundle")
@click.option("--seconds", type=float, default=3.0, show_default=True, help="Time to measure each backend.")
@click.option("--part", metavar="NAME", help="One of the model's graphs alone; by default each.")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads of one run; all cores by default.")
@click.option("--layers", is_flag=True, help="Also shows the time of each layer, where the backend tells it.")
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")
def command(bundle: str, seconds: float, part: str | None, threads: int | None, layers: bool, as_json: bool) -> None:
    """Measures BUNDLE on every backend that this machine has, on the inputs that it keeps.

    Latency is that of single runs, one after the other: p50, p90 and p99 in milliseconds.
    """
    from edgebig.bundle import Bundle

    opened = Bundle.open(bundle)
    chosen = list(opened.manifest.parts) if part is None else [part]
    with guarded_stdout():
        parts = {name: _measure_part(opened, name, seconds, threads, layers) for name in chosen}
    if as_json:
        print_json({"bundle": bundle, "seconds": seconds, "threads": threads, "parts": parts})
    else:
        lines = [line for name, found in parts.items() for line in _lines(name if len(parts) > 1 else "", found)]
        click.echo("\n".join(lines))
    if not any(row["available"] for found in parts.values() for row in found["backends"]):
        reasons = dict.fromkeys(str(row["reason"]) for found in parts.values() for row in found["backends"])
        raise BackendError(f"{bundle}: nothing on this machine runs it: {'; '.join(reasons)}")


def _measure_part(bundle: Bundle, name: str, seconds: float, threads: int | None, layers: bool) -> dict[str, Any]:
    from edgebig.runtime import available_backends, golden, load, load_original
    from edgebig.runtime.profiling import layer_times

    pairs = golden(bundle, name)
    if not pairs:
        raise BundleError(
            f"{bundle.path} keeps no inputs of {name} to measure with: compile the model without --no-golden"
        )
    feeds = pairs[0][0]
    candidates = available_backends(bundle, name)
    rows = []
    for backend in dict.fromkeys(c.backend for c in candidates):
        same = [c for c in candidates if c.backend == backend]
        row: dict[str, Any] = {"backend": backend, "available": False}
        try:
            if not any(c.usable for c in same):
                raise BackendError("; ".join(dict.fromkeys(c.reason for c in same)))
            with load(bundle.path, part=name, require=backend, threads=threads) as session:
                row |= {"available": True, "reason": _taken(session), **_measure(session, feeds, seconds)}
            if layers:
                times = layer_times(bundle, same, feeds, threads)
                row["layers"] = None if times is None else [{"layer": n, "ms": ms} for n, ms in times]
        except BackendError as error:
            row |= {"available": False, "reason": str(error)}
        rows.append(row)
    original: dict[str, Any] | None = None
    if bundle.part(name).original is not None and any(row["available"] for row in rows):
        with load_original(bundle.path, part=name, threads=threads) as session:
            original = {"backend": session.backend, **_measure(session, feeds, seconds)}
    for row in rows:
        if original is not None and row["available"]:
            row["times_as_fast_as_original"] = original["p50_ms"] / row["p50_ms"]
    return {"inputs": {k: list(v.shape) for k, v in feeds.items()}, "backends": rows, "original": original}


def _measure(session: Session, feeds: dict[str, np.ndarray[Any, Any]], seconds: float) -> dict[str, Any]:
    from edgebig.runtime import bench

    return asdict(bench(session, feeds, seconds))


def _taken(session: Session) -> str:
    """What the session said of the file that it took."""
    return next((line for line in session.why if ": taken: " in line), "")


def _lines(name: str, found: dict[str, Any]) -> list[str]:
    inputs = ", ".join(f"{k} {'x'.join(map(str, v)) or 'scalar'}" for k, v in found["inputs"].items())
    rows = [["backend", "p50 ms", "p90 ms", "p99 ms", "runs/s", "against the original"]]
    for row in found["backends"]:
        if row["available"]:
            times = row.get("times_as_fast_as_original")
            rows.append([row["backend"], *_figures(row), f"{times:.2f} times as fast" if times else ""])
    if found["original"] is not None:
        rows.append(["original, float32", *_figures(found["original"]), ""])
    lines = [f"{name}: {inputs}" if name else inputs]
    lines += table(rows, right=[1, 2, 3, 4], indent=2) if len(rows) > 1 else []
    lines += [f"  {row['backend']}: not here: {row['reason']}" for row in found["backends"] if not row["available"]]
    for row in found["backends"]:
        lines += _layer_lines(row)
    if found["original"] is None:
        lines.append("  the bundle keeps no original to compare with: compile with --keep-original")
    return lines


def _layer_lines(row: dict[str, Any]) -> list[str]:
    """The slowest layers of a backend, where they were asked for."""
    if "layers" not in row:
        return []
    if row["layers"] is None:
        return [f"  {row['backend']} does not tell how long a layer takes"]
    slowest = sorted(row["layers"], key=lambda layer: -float(layer["ms"]))
    total = sum(layer["ms"] for layer in slowest) or 1.0
    shown, rest = slowest[:_LAYERS_SHOWN], slowest[_LAYERS_SHOWN:]
    rows = [[layer["layer"], f"{layer['ms']:.4f}", f"{100 * layer['ms'] / total:.1f} %"] for layer in shown]
    if rest:
        left = sum(layer["ms"] for layer in rest)
        rows.append([f"{len(rest)} more", f"{left:.4f}", f"{100 * left / total:.1f} %"])
    return [f"  layers on {row['backend']}:", *table([["layer", "ms", "share"], *rows], right=[1, 2], indent=4)]


def _figures(row: dict[str, Any]) -> list[str]:
    return [*(f"{row[key]:.3f}" for key in ("p50_ms", "p90_ms", "p99_ms")), f"{row['throughput_per_s']:.1f}"]
