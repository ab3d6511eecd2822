"""How far scales move with the batch size of the same data: python batches.py MODEL.onnx SAMPLES.npz ROWS

The model's first axis is dynamic. Each side calibrates with ROWS samples of one row and with one sample of ROWS rows;
printed is a JSON object of the largest relative difference of a tensor's largest magnitude, by side and method.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

from benchmarks.calibration.graphs import quantized_tensors, simplified
from benchmarks.calibration.samples import Sample, read
from edgebig.calibrate import METHODS, collect, open_samples
from edgebig.calibrate.data.samples import Preparers


def main() -> None:
    """Prints the differences."""
    model, samples, rows = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    single = list(read(samples, rows))
    together = [{name: np.concatenate([s[name] for s in single]) for name in single[0]}]
    found = {f"edgebig {m}": d for m, d in edgebig_differences(model, single, together).items()}
    for method in (CalibrationMethod.Entropy, CalibrationMethod.Percentile):
        a, b = (ort_magnitudes(model, data, method) for data in (single, together))
        found[f"ort {method.name.lower()}"] = difference(a, b)
    print(json.dumps(found))


def edgebig_differences(model: Path, single: Sequence[Sample], together: Sequence[Sample]) -> dict[str, float]:
    """By method."""
    graph = simplified(model)
    tensors = quantized_tensors(graph, "l4")
    collected = []
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (("single", single), ("together", together)):
            # half of the ways in: an iterable here, an .npz file there
            place: Any = data
            if name == "together":
                place = Path(folder) / "together.npz"
                np.savez(place, allow_pickle=False, **data[0])
            opened = open_samples(place, graph.inputs, len(single), Preparers())
            collected.append(collect(graph, tensors, opened, "benchmark", counted=tensors))
    found = {}
    for name, method in METHODS.items():
        a, b = ({t: r.magnitude for t, r in each.ranges(method()).by_tensor.items()} for each in collected)
        found[name] = difference(a, b)
    return found


def ort_magnitudes(model: Path, data: Sequence[Sample], method: CalibrationMethod) -> dict[str, float]:
    """ONNX Runtime's range of each tensor, its larger end."""

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples = iter(data)

        def get_next(self) -> Sample | None:
            return next(self._samples, None)

    with tempfile.TemporaryDirectory() as folder:
        augmented = str(Path(folder) / "augmented.onnx")
        calibrator = create_calibrator(model, augmented_model_path=augmented, calibrate_method=method)
        calibrator.collect_data(Reader())
        ranges = calibrator.compute_data().items()
    return {name: float(np.abs(np.array(data.range_value, np.float64)).max()) for name, data in ranges}


def difference(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Largest relative difference over all names, which both have."""
    if a.keys() != b.keys():
        raise ValueError(f"other tensors: {sorted(a.keys() ^ b.keys())[:3]}")
    return max((abs(a[name] - b[name]) / max(abs(a[name]), abs(b[name]), 1e-30) for name in a), default=0.0)


if __name__ == "__main__":
    main()
