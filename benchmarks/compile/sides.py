"""The two sides of a comparison: commands that are measured, what they leave, and its quality."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT, CommandFailed, Comparison, Cost, Row, measure, typical

HERE = Path(__file__).resolve().parent
_MB = 1e6


@dataclass(frozen=True)
class Options:
    """How thoroughly to measure.

    Attributes:
        runs: of every compile.
        seconds: of latency for each model and input.
        threads: of every model whose latency is measured.
    """

    runs: int
    seconds: float
    threads: int


def environment() -> dict[str, str]:
    """For every child: this checkout's edgebig, no network, no telemetry, and no filled cache."""
    found = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([str(ROOT), *([found] if found else [])])
    return {"EDGEBIG_CACHE": "off", "HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "PYTHONPATH": paths}


def compile_bundle(model: Path, out: Path, *options: str | Path) -> Cost:
    """``edgebig compile MODEL --target cpu`` with more options, as a whole process."""
    command = ("-m", "edgebig", "compile", model, "-o", out, "--force", "--quiet", "--target", "cpu", *options)
    return measure((sys.executable, *command), environment())


def run_peer(script: str, *arguments: str | Path) -> Cost:
    """A peer's script of this folder, as a whole process."""
    return measure((sys.executable, HERE / script, *arguments), environment())


def export_with_optimum(model: Path, out: Path) -> Cost:
    """``optimum-cli export onnx`` to an empty folder, as a whole process, its own check of the export included."""
    shutil.rmtree(out, ignore_errors=True)
    tool = Path(sys.executable).with_name("optimum-cli")
    options = ("--task", "feature-extraction", "--library-name", "transformers")
    return measure((tool, "export", "onnx", "--model", model, *options, out), environment())


def bundle_bytes(bundle: Path) -> int:
    """What a device needs of a bundle for a CPU: manifest, graphs and processor; the evidence stays at home."""
    files = [bundle / "manifest.json", *(f for d in ("graphs", "processor") for f in (bundle / d).rglob("*"))]
    return sum(f.stat().st_size for f in files if f.is_file())


def quality(
    what: str, original: Path, unseen: Path, models: Mapping[str, Path], options: Options
) -> dict[str, dict[str, float]]:
    """Latency and closeness of every model, all in one process that lets them take turns (quality.py).

    Raises:
        CommandFailed: a model does not run.
    """
    named = [f"{name}={path}" for name, path in models.items()]
    limits = ("--seconds", str(options.seconds), "--threads", str(options.threads))
    done = subprocess.run(
        [sys.executable, str(HERE / "quality.py"), what, str(original), str(unseen), *named, *limits],
        env={**os.environ, **environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise CommandFailed(f"the quality of {what}: {done.stderr[-2000:]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def comparison(
    title: str, peer: str, ours: Sequence[Cost], theirs: Sequence[Cost], sizes: tuple[int, int], rows: Sequence[Row]
) -> Comparison:
    """A table: what the compile took and what it gives in bytes, and then ``rows``."""
    a, b = typical(ours), typical(theirs)
    costs = (
        Row("compile, wall time, s", a.seconds, b.seconds, 2),
        Row("compile, processor time, s", a.cpu_seconds, b.cpu_seconds, 2),
        Row("compile, peak memory, MB", a.peak_bytes / _MB, b.peak_bytes / _MB, 0),
        Row("what is shipped, MB", sizes[0] / _MB, sizes[1] / _MB, 2),
    )
    runs = {side: tuple(round(c.seconds, 3) for c in costs) for side, costs in (("edgebig", ours), ("peer", theirs))}
    return Comparison(title, peer, (*costs, *rows), runs)
