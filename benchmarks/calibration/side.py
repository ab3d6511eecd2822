"""One side, in a process of its own: python side.py SIDE MODEL.onnx SAMPLES.npz COUNT [--timed] [--methods M,M]

SIDE is plain (ONNX Runtime's session.run, level all, batch 1), edgebig-plain (the same with edgebig's imports and
its graph in memory, what a compile holds before it calibrates), edgebig-l4, edgebig-cpu (edgebig's own collect, on
the tensors that the plan of that target quantizes), ort (ONNX Runtime's calibrator of one method) or nncf (its
whole quantization). With --timed, the last line printed is a JSON object: seconds of the calibration, of the
plain pass over the same samples, the mean of one right before and one right after it, and of loading the session of
the plain pass, which every calibration does within its own time. Without, samples are read
one at a time and nothing else runs, so that the process's peak is the calibration's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import onnxruntime as ort

from benchmarks.calibration.samples import Sample, read

Work = Callable[[Iterable[Sample]], object]


def main() -> None:
    """Runs the side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--timed", action="store_true")
    parser.add_argument("--methods", default="")
    asked = parser.parse_args()
    work = SIDES[asked.side](asked.model, [m for m in asked.methods.split(",") if m])
    stream = read(asked.samples, asked.count)
    if not asked.timed:
        work(stream)
        return
    kept = list(stream)
    start = time.perf_counter()
    forward = plain(asked.model, [])
    loading = time.perf_counter() - start
    forward(kept[:2])
    before, taken, after = seconds(forward, kept), seconds(work, kept), seconds(forward, kept)
    print(json.dumps({"seconds": taken, "plain": (before + after) / 2, "loading": loading}))


def seconds(work: Work, samples: Sequence[Sample]) -> float:
    """Wall time of one pass."""
    start = time.perf_counter()
    work(samples)
    return time.perf_counter() - start


def plain(model: Path, methods: Sequence[str]) -> Work:
    """The forward pass alone; loading the session is not part of it."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}

    def work(samples: Iterable[Sample]) -> None:
        for sample in samples:
            session.run(None, {k: v for k, v in sample.items() if k in names})

    return work


def edgebig_plain(model: Path, methods: Sequence[str]) -> Work:
    """The forward pass alone, of the graph that edgebig calibrates."""
    from benchmarks.calibration.graphs import simplified
    from edgebig.graph import Executor

    graph = simplified(model)

    def work(samples: Iterable[Sample]) -> None:
        with Executor(graph, "all") as executor:
            for sample in samples:
                executor.run(sample)

    return work


def edgebig(target: str) -> Callable[[Path, Sequence[str]], Work]:
    """One pass for all methods; from a simplified graph in memory to the ranges, the session's loading included."""

    def prepared(model: Path, methods: Sequence[str]) -> Work:
        from benchmarks.calibration.graphs import quantized_tensors, simplified
        from edgebig.calibrate import METHODS, collect

        graph = simplified(model)
        tensors = quantized_tensors(graph, target)
        counted = tensors if any(METHODS[m]().needs_histogram for m in methods) else []

        def work(samples: Iterable[Sample]) -> None:
            located = ((f"sample {i}", sample) for i, sample in enumerate(samples))
            collected = collect(graph, tensors, located, "benchmark", counted=counted)
            for method in methods:
                collected.ranges(METHODS[method]())

        return work

    return prepared


def ort_calibrator(model: Path, methods: Sequence[str]) -> Work:
    """ONNX Runtime's calibrator, from the file to the ranges; its settings are its defaults."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    method = {
        "min-max": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }[methods[0]]
    names = {i.name for i in ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).get_inputs()}

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, samples: Iterable[Sample]) -> None:
            self._samples = iter(samples)

        def get_next(self) -> Sample | None:
            sample = next(self._samples, None)
            return None if sample is None else {k: v for k, v in sample.items() if k in names}

    def work(samples: Iterable[Sample]) -> object:
        with tempfile.TemporaryDirectory() as folder:
            augmented = str(Path(folder) / "augmented.onnx")
            calibrator = create_calibrator(model, augmented_model_path=augmented, calibrate_method=method)
            calibrator.collect_data(Reader(samples))
            return calibrator.compute_data()

    return work


def nncf_quantization(model: Path, methods: Sequence[str]) -> Work:
    """nncf.quantize with its defaults on the loaded model, all of the samples, a transformer as such."""
    import nncf
    import onnx

    loaded = onnx.load(model)
    names = {i.name for i in loaded.graph.input}
    kind = nncf.ModelType.TRANSFORMER if "transformer" in methods else None

    def work(samples: Iterable[Sample]) -> object:
        kept = [{k: v for k, v in sample.items() if k in names} for sample in samples]
        return nncf.quantize(loaded, nncf.Dataset(kept), subset_size=len(kept), model_type=kind)

    return work


SIDES: dict[str, Callable[[Path, Sequence[str]], Work]] = {
    "plain": plain,
    "edgebig-plain": edgebig_plain,
    "edgebig-l4": edgebig("l4"),
    "edgebig-cpu": edgebig("cpu"),
    "ort": ort_calibrator,
    "nncf": nncf_quantization,
}

if __name__ == "__main__":
    main()
