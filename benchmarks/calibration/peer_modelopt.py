"""ModelOpt's scales from the same data in batches of one size and of another.

    python peer_modelopt.py MODEL.onnx SAMPLES.npz ROWS

MODEL's first axis is dynamic. Runs in ModelOpt's own environment; printed is a JSON object: by calibration method, the
largest magnitude of each quantized activation with samples of one row, and the same with one sample of ROWS rows.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import onnx

from benchmarks.calibration.samples import read

METHODS = ("max", "entropy")
_INT8 = 127.0


def main() -> None:
    """Prints the magnitudes."""
    model, samples, rows = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    kept = list(read(samples, rows))
    together = {name: np.concatenate([s[name] for s in kept]) for name in kept[0]}
    print(json.dumps({m: [magnitudes(model, together, m, batch) for batch in (1, rows)] for m in METHODS}))


def magnitudes(model: Path, data: dict[str, Any], method: str, batch: int) -> dict[str, float]:
    """Of each tensor that an INT8 QuantizeLinear reads: scale times 127."""
    from modelopt.onnx.quantization import quantize

    shapes = ",".join(f"{n}:{'x'.join(map(str, (batch, *a.shape[1:])))}" for n, a in data.items())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "quantized.onnx"
        quantize(
            str(model),
            quantize_mode="int8",
            calibration_data=data,
            calibration_method=method,
            calibration_shapes=shapes,
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=str(out),
            log_level="ERROR",
        )
        graph = onnx.load(out).graph
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in weights:
            found[node.input[0]] = float(weights[node.input[1]]) * _INT8
    return found


if __name__ == "__main__":
    main()
