"""Calibration's time over the plain forward pass, its memory above it, and whether batches change its result.

    python benchmarks/calibration/run.py [--quick] [--json] [--only MODEL]

edgebig, ONNX Runtime's calibrators and NNCF (where install_peers.py has put it) on the same models and samples. Every
figure is a ratio or a difference to a plain pass of ONNX Runtime in the same run; docs/benchmarks.md explains them.
Tables go to standard output and progress to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.calibration.batches import difference
from benchmarks.calibration.install_peers import ENVIRONMENT, python_of
from benchmarks.common import ROOT, CommandFailed, machine, measure, versions

HERE = Path(__file__).resolve().parent
_DATA = ROOT.parent / "shared" / "data"
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "optimum-onnx", "torch", "transformers")
_ALL = "entropy,percentile,mse"
_MB = 1e6


@dataclass(frozen=True)
class Model:
    """A model that is timed.

    Attributes:
        name: as models.py has it.
        title: for people.
        samples: how many are calibrated with.
        limit: the largest ratio for entropy, percentile and MSE together that edgebig means to need, then the one
            that it works towards.
        nncf: what NNCF is told.
    """

    name: str
    title: str
    samples: int
    limit: tuple[float, float]
    nncf: str = ""


MODELS = (
    Model("resnet50", "ResNet-50, 64 pictures", 64, (1.6, 1.25)),
    Model("minilm", "MiniLM, 128 sentences of 128 tokens", 128, (1.6, 1.25), "transformer"),
    Model("minilm-short", "MiniLM, 128 sentences, not padded", 128, (1.6, 1.25), "transformer"),
    Model("squeezenet", "SqueezeNet 1.1, 100 pictures", 100, (2.5, 1.5)),
)


@dataclass(frozen=True)
class Figure:
    """A row: what was measured on one side.

    Attributes:
        what: the figure.
        side: edgebig or the peer, with its method.
        values: of the single runs.
        limit: the largest value that edgebig means to have; empty for peers.
        failure: why there is no value.
    """

    what: str
    side: str
    values: tuple[float, ...] = ()
    limit: str = ""
    failure: str = ""

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        if not self.values:
            return self.what, self.side, f"none: {self.failure}", "", self.limit
        spread = f"{min(self.values):.4g} to {max(self.values):.4g}" if len(self.values) > 1 else ""
        return self.what, self.side, f"{median(self.values):.4g}", spread, self.limit


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one run and few samples: shows that all works")
    parser.add_argument("--runs", type=int, help="of every side (3; with --quick 1)")
    parser.add_argument("--only", help="times this model alone, without memory and batches")
    asked = parser.parse_args()
    before = machine()
    runs = asked.runs or (1 if asked.quick else 3)
    few = 8 if asked.quick else None
    chosen = [m for m in MODELS if asked.only in (None, m.name)]
    with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
        work = Path(folder)
        missing = make_models(work, [*(m.name for m in chosen), *([] if asked.only else ["small"])])
        chosen = [m for m in chosen if m.name not in missing]
        figures = [f for m in chosen for f in times(m, work, few or m.samples, runs)]
        if not asked.only:
            figures += [f for m in chosen if m.name != "minilm-short" for f in memory(m, work, few or 64, runs)]
            if "squeezenet" not in missing:
                figures += growth(work / "squeezenet", few or 50, runs, 4 if few else 20)
            if "small" not in missing:
                figures += batches(work / "small", few or 32)
    report(figures, {**before, "runs": str(runs)}, missing, as_json=asked.json)
    return 0 if figures else 1


def make_models(work: Path, names: Sequence[str]) -> dict[str, str]:
    """Makes the models; why others are missing, by name."""
    missing = {}
    for name in names:
        if not name.startswith("minilm") and not (_DATA / "images").is_dir():
            missing[name] = f"there is no {_DATA}"
            continue
        say(f"making {name}")
        done = subprocess.run([sys.executable, HERE / "models.py", work, name], env=environment(), **_CAPTURED)
        if done.returncode != 0:
            missing[name] = last_line(done.stderr)
    return missing


def times(model: Model, work: Path, count: int, runs: int) -> list[Figure]:
    """Wall time over the plain pass, every side in turn; and over the plain pass with its session's loading."""
    what = f"time / plain pass, {model.title}"
    loaded = f"time / plain pass and the loading of its session, {model.title}"
    limits = {_ALL: f"<= {model.limit[0]}, then {model.limit[1]}", "min-max": "<= 1.15"}
    sides = [(f"edgebig-{target}", methods) for methods in (_ALL, "min-max") for target in ("l4", "cpu")]
    sides += [("ort", method) for method in ("entropy", "percentile", "min-max")]
    sides += [("nncf", model.nncf)]
    found: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
    found_loaded: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
    failures: dict[tuple[str, str], str] = {}
    for _ in range(runs):
        for side in sides:
            if side in failures:
                continue
            say(f"{model.title}: {' '.join(side)}")
            try:
                timed = run_side(*side, work / model.name, count)
            except CommandFailed as error:
                failures[side] = str(error)
            else:
                found[side].append(timed["seconds"] / timed["plain"])
                found_loaded[side].append(timed["seconds"] / (timed["plain"] + timed["loading"]))
    rows = [
        Figure(
            what,
            label(*side),
            tuple(found[side]),
            limits[side[1]] if side[0].startswith("edgebig") else "",
            failures.get(side, ""),
        )
        for side in sides
    ]
    return rows + [Figure(loaded, label(*side), tuple(values)) for side, values in found_loaded.items() if values]


def memory(model: Model, work: Path, count: int, runs: int) -> list[Figure]:
    """Peak of the process above that of a plain pass of the same samples, MB.

    edgebig's is given twice: above ONNX Runtime alone, so that the imports and the graph in memory count, and
    above a plain pass in a process that has both, which leaves what calibration itself takes.
    """
    name = model.title.split(",")[0]
    stem = work / model.name
    sides = [("edgebig-l4", _ALL), ("edgebig-cpu", _ALL), ("edgebig-l4", "min-max")]
    peers = [("ort", "entropy"), ("ort", "min-max")]
    say(f"{name}: memory")
    bases = {base: peak(base, "", stem, count, runs) for base in ("plain", "edgebig-plain")}
    peaks: dict[tuple[str, str], float | str] = {}
    for side in [*sides, *peers]:
        say(f"{name}: memory of {' '.join(side)}")
        try:
            peaks[side] = peak(*side, stem, count, runs)
        except CommandFailed as error:
            peaks[side] = last_line(str(error))
    found = []
    for base, compared in (("plain", [*sides, *peers]), ("edgebig-plain", sides)):
        above = "a plain pass" if base == "plain" else "a plain pass with edgebig's imports and graph"
        what = f"peak memory above {above}, {name}, {count} samples, MB"
        for side in compared:
            limit = "<= 150" if side in sides else ""
            value = peaks[side]
            if isinstance(value, str):
                found.append(Figure(what, label(*side), limit=limit, failure=value))
            else:
                found.append(Figure(what, label(*side), ((value - bases[base]) / _MB,), limit))
    return found


def growth(stem: Path, count: int, runs: int, times_as_many: int) -> list[Figure]:
    """Peak with many samples over the peak with few."""
    what = f"peak memory, {count * times_as_many} samples / {count} samples, SqueezeNet"
    found = []
    for side in (("edgebig-l4", _ALL), ("edgebig-cpu", _ALL)):
        say(f"growth of memory: {' '.join(side)}")
        few, many = (peak(*side, stem, n, runs) for n in (count, count * times_as_many))
        found.append(Figure(what, label(*side), (many / few,), "<= 1.03"))
    return found


def batches(stem: Path, rows: int) -> list[Figure]:
    """Difference of scales between samples of one row and one sample of many."""
    say("batches")
    what = f"largest relative difference of a scale, batch 1 against batch {rows}"
    command = [sys.executable, HERE / "batches.py", f"{stem}.onnx", f"{stem}.npz", str(rows)]
    done = subprocess.run(command, env=environment(), **_CAPTURED)
    if done.returncode != 0:
        return [Figure(what, "edgebig, ort", limit="0", failure=last_line(done.stderr))]
    differences: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    found = [Figure(what, side, (v,), "0" if side.startswith("edgebig") else "") for side, v in differences.items()]
    return found + modelopt_batches(stem, rows, what)


def modelopt_batches(stem: Path, rows: int, what: str) -> list[Figure]:
    """The same of ModelOpt, where benchmarks/accuracy/install_peers.py has put it."""
    say("batches, ModelOpt")
    python = python_of(ENVIRONMENT.with_name("modelopt"))
    if not python.exists():
        return [Figure(what, "ModelOpt", failure="not installed: python benchmarks/accuracy/install_peers.py modelopt")]
    command = [python, HERE / "peer_modelopt.py", f"{stem}.onnx", f"{stem}.npz", str(rows)]
    # where it is called it leaves folders behind
    done = subprocess.run(command, env=environment(), cwd=stem.parent, **_CAPTURED)
    if done.returncode != 0:
        return [Figure(what, "ModelOpt", failure=last_line(done.stderr))]
    magnitudes: dict[str, list[dict[str, float]]] = json.loads(done.stdout.splitlines()[-1])
    return [Figure(what, f"ModelOpt {method}", (difference(*pair),)) for method, pair in magnitudes.items()]


def peak(side: str, methods: str, stem: Path, count: int, runs: int) -> float:
    """Median over the runs of the process's peak, bytes."""
    command = side_command(side, methods, stem, count)
    return median(measure(command, environment()).peak_bytes for _ in range(runs))


def run_side(side: str, methods: str, stem: Path, count: int) -> dict[str, float]:
    """Seconds of the side and of the plain pass.

    Raises:
        CommandFailed: with the last line of its error.
    """
    if side == "nncf" and not python_of(ENVIRONMENT).exists():
        raise CommandFailed("not installed: python benchmarks/calibration/install_peers.py")
    done = subprocess.run([*side_command(side, methods, stem, count), "--timed"], env=environment(), **_CAPTURED)
    if done.returncode != 0:
        raise CommandFailed(last_line(done.stderr) or f"exit code {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def side_command(side: str, methods: str, stem: Path, count: int) -> list[str]:
    """The command of a side, with the interpreter that has it."""
    python = python_of(ENVIRONMENT) if side == "nncf" else sys.executable
    files = (f"{stem}.onnx", f"{stem}.npz")
    return [str(python), str(HERE / "side.py"), side, *files, str(count), f"--methods={methods}"]


def label(side: str, methods: str) -> str:
    """A side's name for people."""
    name = {"ort": "ONNX Runtime's calibrator", "nncf": "NNCF, whole quantization"}.get(side)
    if side == "nncf":
        return str(name)
    name = name or f"edgebig, tensors quantized for {side.removeprefix('edgebig-')}"
    return f"{name}: {methods.replace(',', ' + ')}"


def report(figures: Sequence[Figure], setup: Mapping[str, str], missing: Mapping[str, str], *, as_json: bool) -> None:
    """Prints everything."""
    if as_json:
        found = [asdict(f) for f in figures]
        print(json.dumps({"machine": setup, "versions": versions(_PACKAGES), "figures": found, "missing": missing}))
        return
    print("\n".join(f"{name}: {value}" for name, value in setup.items()))
    print("versions:", ", ".join(f"{name} {number}" for name, number in versions(_PACKAGES).items()))
    for what in dict.fromkeys(f.what for f in figures):
        print(f"\n### {what}\n\n| side | median | single runs | to reach |\n|---|--:|--:|--:|")
        for figure in figures:
            if figure.what == what:
                print(f"| {' | '.join(figure.cells()[1:])} |")
    for name, reason in missing.items():
        print(f"\nLeft out: {name}: {reason}")


def environment() -> dict[str, str]:
    """For every child: this checkout's edgebig, no network."""
    found = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT), *([found] if found else [])])
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}


def last_line(text: str) -> str:
    """What an error ends with."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def say(what: str) -> None:
    """Progress."""
    print(f"{what} ...", file=sys.stderr, flush=True)


_CAPTURED: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}

if __name__ == "__main__":
    try:
        sys.exit(main())
    except CommandFailed as error:
        sys.exit(f"error: {error}")
