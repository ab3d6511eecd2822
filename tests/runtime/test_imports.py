"""A robot installs NumPy and one engine: importing the runtime loads nothing else, and quickly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = """
import json, sys, time
import numpy
start = time.thread_time()
import edgebig.loading
import edgebig.runtime
milliseconds = (time.thread_time() - start) * 1e3
edgebig = sys.modules["edgebig"]
assert edgebig.load is edgebig.loading.load and edgebig.Session is edgebig.runtime.Session
print(json.dumps([milliseconds, sorted(sys.modules)]))
"""
_HEAVY = "onnx onnx_ir onnxscript onnxruntime torch transformers optimum pydantic yaml click rich tensorrt tensorrt_rtx"
_OURS = ["bundle", "errors", "loading", "manifest", "quick_check", "runtime", "schema", "sessions", "spec"]


def test_importing_the_runtime_is_quick_and_loads_numpy_alone() -> None:
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", _PROGRAM], cwd=ROOT, capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    modules = set(runs[0][1])
    assert modules.isdisjoint(_HEAVY.split())
    ours = {name.split(".")[1] for name in modules if name.startswith("edgebig.")}
    assert sorted(ours) == _OURS
    assert min(milliseconds for milliseconds, _ in runs) <= 60
