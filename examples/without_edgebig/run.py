"""Runs a bundle's graph in bare ONNX Runtime on the golden inputs and compares; nothing of edgebig is needed.

IFS=$'\\t' read -r graph golden level < <(./check.sh resnet50.bundle)
python3 run.py resnet50.bundle "$graph" "$golden" "$level"
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(bundle: str, graph: str, golden: str, level: str) -> None:
    """Prints one JSON object: for each output the largest difference from the golden one, and the cosine."""
    if golden == "-":
        sys.exit(f"run.py: {bundle}: the part keeps no golden inputs")
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if level == "all" else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(Path(bundle) / graph), options, providers=["CPUExecutionProvider"])
    with np.load(Path(bundle) / golden, allow_pickle=False) as arrays:
        pairs: dict[str, dict[str, dict[str, np.ndarray]]] = {}
        for key in arrays.files:  # in.NAME.I and out.NAME.I; NAME may hold dots itself
            side, _, rest = key.partition(".")
            name, _, number = rest.rpartition(".")
            pairs.setdefault(number, {"in": {}, "out": {}})[side][name] = arrays[key]
    report: dict[str, list[dict[str, float]]] = {}
    for pair in pairs.values():
        for name, found in zip(pair["out"], session.run(list(pair["out"]), pair["in"]), strict=True):
            a, b = np.float64(pair["out"][name]).ravel(), np.float64(found).ravel()
            cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) or 1))
            report.setdefault(name, []).append({"max_abs": float(abs(a - b).max(initial=0)), "cosine": cosine})
    print(json.dumps(report))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: run.py BUNDLE GRAPH GOLDEN LEVEL")
    main(*sys.argv[1:])
