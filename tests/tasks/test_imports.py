"""The tasks run on a device: they load NumPy, and Pillow and tokenizers only when used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = "import edgebig.tasks.speech, edgebig.tasks.text, edgebig.tasks.vision, sys; print(*sys.modules)"
_HEAVY = {"PIL", "onnx", "onnxruntime", "pydantic", "tokenizers", "torch", "transformers", "yaml"}
_OURS = {"errors", "preprocess", "tasks"}


def test_the_tasks_load_numpy_and_plain_data_alone() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "numpy" in modules and modules.isdisjoint(_HEAVY)
    assert {name.split(".")[1] for name in modules if name.startswith("edgebig.")} == _OURS
