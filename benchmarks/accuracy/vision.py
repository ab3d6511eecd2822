"""SqueezeNet, TwinLiteNet and UltraFace in INT8: agreement with FP32 on unseen pictures, beside other tools, and speed.

    python benchmarks/accuracy/vision.py [--json] [--quick] [--plain] [--threads N] [--model NAME] [--target NAME]
        [--side PART]

One half of the pictures in ../shared/data/images is calibrated with, and all figures are of the other half: for
SqueezeNet and UltraFace of ten views of each picture (whole and four corner crops of 80 % of its sides, each also
mirrored), which are distinct inputs but not independent ones, for TwinLiteNet of the pictures as they are. edgebig
compiles with its defaults, with --precision auto --min-speedup where a speed is to be reached, and, in further rows,
with settings under test; it holds four of its pictures out, seven with auto, which searches with them. Peers:
ONNX Runtime's quantize_static by each of its methods (unsigned activations, or symmetric for the L4), and NNCF where
install_peers.py has put it; both get the FP32 graph that edgebig has simplified, since they fail on two of the
models as published. What is for this CPU is run by ONNX Runtime with all optimizations, edgebig's graphs and a
peer's symmetric ones for the L4 with none. --plain leaves the settings under test out, --quick takes one view besides.
Where there are ten views, another row gives the agreement on the pictures themselves.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import edgebig
from benchmarks.accuracy.figures import Figure, report, say
from benchmarks.accuracy.install_peers import PEERS, python_of
from benchmarks.accuracy.vision_models import MODELS, Model, Outputs, inputs, split
from benchmarks.calibration import samples
from benchmarks.common import ROOT, CommandFailed, cores, machine, measure
from benchmarks.compile.quality import latencies, open_model
from edgebig.errors import EdgebigError
from edgebig.graph import Executor, Graph
from edgebig.graph.execute import Level
from edgebig.graph.passes import (
    FoldBatchNorm,
    FoldConstants,
    NameNodes,
    RaiseOpset,
    RaiseToFloat32,
    RemoveNoOps,
    run_passes,
)
from edgebig.recipe import Recipe

HERE = Path(__file__).resolve().parent
DATA = ROOT.parent / "shared" / "data"
LEVELS: Mapping[str, Level] = {"cpu": "all", "l4": "off"}
Array = np.ndarray[Any, Any]

_OPSET = 19
_SPEED = 1.9
"""To reach for SqueezeNet, of FP32's."""

_ASKED = 1.95
"""The same with a margin for what a measurement may be off by."""

_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "pillow")


@dataclass(frozen=True)
class Side:
    """A quantized model that is compared.

    Attributes:
        title: for people.
        target: ``cpu`` or ``l4``.
        peer: what vision_peer.py is told; empty for edgebig.
        repair: repairs, where they are not edgebig's own choice.
        method: of calibration, likewise.
        speed: times FP32's that ``auto`` is asked for.
    """

    title: str
    target: str
    peer: str = ""
    repair: tuple[str, ...] | None = None
    method: str | None = None
    speed: float | None = None

    @property
    def is_tested(self) -> bool:
        """Whether it is not what a user gets who asks for nothing."""
        return self.repair is not None or self.method is not None


def sides(target: str, *, is_fast: bool = False) -> tuple[Side, ...]:
    """All that are compared for a target; ``is_fast``: a speed is to be reached there."""
    kind = "-symmetric" if target == "l4" else ""
    equal, biased = ("equalize", "smooth"), ("equalize", "smooth", "bias")
    return (
        Side("edgebig, as it comes", target),
        *([Side(f"edgebig, auto --min-speedup {_ASKED}", target, speed=_ASKED)] if is_fast else []),
        Side("edgebig, no repair", target, repair=()),
        *(Side(f"edgebig, no repair, {m}", target, repair=(), method=m) for m in ("percentile", "mse")),
        Side("edgebig, equalize", target, repair=equal),
        Side("edgebig, equalize, bias", target, repair=biased),
        Side("edgebig, equalize, adaround", target, repair=(*equal, "adaround")),
        Side("edgebig, equalize, adaround, bias", target, repair=(*biased, "adaround")),
        *(Side(f"ONNX Runtime, {m}", target, f"ort{kind}-{m}") for m in ("min-max", "percentile", "entropy")),
        Side("NNCF", target, f"nncf{kind}"),
    )


def main() -> int:
    """Measures and prints; the exit code is 0 whatever was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one view of each picture, no settings under test")
    parser.add_argument("--plain", action="store_true", help="no settings under test")
    parser.add_argument("--threads", type=int, default=min(2, cores()), help="of every model whose latency is measured")
    parser.add_argument("--model", choices=MODELS, action="append", help="only this one")
    parser.add_argument("--target", choices=LEVELS, action="append", help="only this one")
    parser.add_argument("--side", metavar="PART", action="append", help="only those whose title has this in it")
    asked = parser.parse_args()
    if not (DATA / "images").is_dir():
        sys.exit(f"error: the folder of models and pictures is not here: {DATA}")
    setup = {**machine(), "threads": str(asked.threads)}
    figures: list[Figure] = []
    missing: list[str] = []
    for name in asked.model or MODELS:
        with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
            bench = Bench(MODELS[name], Path(folder), 1 if asked.quick else MODELS[name].views)
            for target in asked.target or LEVELS:
                is_fast = target == "cpu" and MODELS[name].to_reach is not None
                chosen = [
                    s for s in sides(target, is_fast=is_fast) if not s.is_tested or not (asked.quick or asked.plain)
                ]
                chosen = [s for s in chosen if not asked.side or any(part in s.title for part in asked.side)]
                made, failed = bench.make(chosen)
                missing += failed
                figures += bench.agreements(made)
                if target == "cpu":
                    figures += bench.speeds(made, asked.threads, 1.0 if asked.quick else 5.0)
    figures.sort(key=lambda figure: figure.what)
    report("Vision models in INT8", figures, setup, _PACKAGES, missing, as_json=asked.json)
    return 0


class Bench:
    """One model, its pictures, and FP32's answers."""

    def __init__(self, model: Model, work: Path, views: int) -> None:
        say(model.title)
        self._model, self._work, self._views = model, work, views
        self._file = DATA / model.file
        self._fp32 = work / "fp32.onnx"
        graph = Graph.load(self._file)
        passes = [RaiseOpset(_OPSET), RaiseToFloat32(), FoldBatchNorm(), FoldConstants(), RemoveNoOps(), NameNodes()]
        run_passes(graph, passes)
        graph.save(self._fp32)
        self._input, self._outputs = graph.inputs[0].name, [spec.name for spec in graph.outputs]
        seen, unseen = split(DATA / "images")
        (work / "seen").mkdir()
        for file in seen:
            (work / "seen" / file.name).symlink_to(file.resolve())
        samples.write(work / "samples.npz", ({self._input: array} for array in inputs(model, seen)))
        self._feeds = [{self._input: array} for array in inputs(model, unseen, views)]
        self._expected = self._run(self._file, "all")

    def make(self, chosen: Sequence[Side]) -> tuple[dict[Side, Path], list[str]]:
        """The quantized graph of each side, and why one is missing."""
        made: dict[Side, Path] = {}
        missing = []
        for number, side in enumerate(chosen):
            say(f"{self._model.title}, {side.target}: {side.title}")
            try:
                out = self._work / f"{side.target}-{number}"
                made[side] = self._peer(side, out.with_suffix(".onnx")) if side.peer else self._edgebig(side, out)
            except (CommandFailed, EdgebigError) as error:
                reason = str(error).strip().splitlines()[-1]
                missing.append(f"{self._model.title}, {side.target}: {side.title}: {reason}")
        return made, missing

    def agreements(self, made: Mapping[Side, Path]) -> list[Figure]:
        """A row for each figure and side; the first figure also of the whole pictures alone."""
        figures = []
        for side, file in made.items():
            say(f"agreement of {side.title}")
            title = f"{self._model.title}, {side.target}"
            outputs = self._run(file, LEVELS[side.target])
            found = self._model.agreement(self._expected, outputs)
            is_ours = not side.peer and not side.is_tested
            limit = f">= {self._model.to_reach:g}" if self._model.to_reach is not None and is_ours else ""
            for index, (what, value) in enumerate(zip(self._model.figures, found, strict=True)):
                name = f"{title}: {index + 1}: {what} with FP32, {len(outputs)} inputs"
                figures.append(Figure(name, side.title, value, "" if index else limit))
            if self._views > 1:
                whole = outputs[:: self._views]
                value = self._model.agreement(self._expected[:: self._views], whole)[0]
                name = f"{title}: 0: {self._model.figures[0]} with FP32, the {len(whole)} whole pictures"
                figures.append(Figure(name, side.title, value, limit))
        return figures

    def speeds(self, made: Mapping[Side, Path], threads: int, seconds: float) -> list[Figure]:
        """FP32's latency over each model's, all in turn."""
        say("latency")
        plain = {s: f for s, f in made.items() if not s.is_tested or "adaround" in (s.repair or ())}
        with ExitStack() as stack:
            files = {"FP32": self._file, **{side.title: file for side, file in plain.items()}}
            models = {name: open_model(str(path), threads, stack) for name, path in files.items()}
            times = latencies(models, self._feeds[0], seconds)
        what = f"{self._model.title}, cpu: 9: speed over FP32's, {threads} threads"
        figures = []
        for side in plain:
            is_ours = not side.peer and not side.is_tested
            limit = f">= {_SPEED}" if is_ours and self._model.to_reach is not None else ""
            note = f"{times[side.title]:.2f} ms, FP32 {times['FP32']:.2f} ms"
            figures.append(Figure(what, side.title, times["FP32"] / times[side.title], limit, 2, note))
        return figures

    def _edgebig(self, side: Side, out: Path) -> Path:
        precision = "int8" if side.speed is None else "auto"
        recipe = Recipe.load(self._model.recipe).changed(
            precision=precision, repair=side.repair, min_speedup=side.speed
        )
        if side.method is not None:
            recipe = recipe.with_calibration({"methods": (side.method,)})
        edgebig.compile(self._file, out=out, target=side.target, recipe=recipe, calibration=self._work / "seen")
        return next((out / "graphs").glob("*.onnx"))

    def _peer(self, side: Side, out: Path) -> Path:
        python = Path(sys.executable)
        if side.peer.startswith("nncf"):
            python = python_of(PEERS["nncf"])
            if not python.exists():
                raise CommandFailed("not installed: python benchmarks/accuracy/install_peers.py nncf")
        measure((python, HERE / "vision_peer.py", side.peer, self._fp32, self._work / "samples.npz", out))
        return out

    def _run(self, file: Path, level: Level) -> list[Outputs]:
        with Executor(file, level) as executor:
            return [list(executor.run(feed, self._outputs).values()) for feed in self._feeds]


if __name__ == "__main__":
    sys.exit(main())
