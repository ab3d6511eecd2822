"""A Jetson that finishes a bundle has NumPy, click and TensorRT: nothing that compiles is imported there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_HEAVY = "onnx onnx_ir onnxscript onnxruntime torch transformers optimum pydantic yaml rich"
_PROGRAM = f"""
import json, sys
for name in "{_HEAVY}".split():
    sys.modules[name] = None  # an import of it fails
import edgebig.cli.finish, edgebig.device.facts, edgebig.device.finish, edgebig.loading
from edgebig.build import BuildOptions, build_engine
print(json.dumps(sorted(m for m in sys.modules if m.startswith("edgebig."))))
"""


def test_what_finishes_a_bundle_imports_nothing_that_compiles() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = {name.split(".")[1] for name in json.loads(done.stdout)}
    assert {"build", "device"} <= ours
    assert ours.isdisjoint(
        {"source", "graph", "calibrate", "quantize", "verify", "steps", "pipeline", "recipe", "target"}
    )
