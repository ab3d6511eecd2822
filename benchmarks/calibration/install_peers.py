"""Puts NNCF into an environment of its own, benchmarks/.peers/nncf: python benchmarks/calibration/install_peers.py

It asks for other versions of packages than edgebig's other peers; without it run.py leaves its rows out.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

ENVIRONMENT = Path(__file__).resolve().parent.parent / ".peers" / "nncf"


def python_of(environment: Path) -> Path:
    """Its interpreter."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def main() -> int:
    """Makes the environment; pip's exit code."""
    venv.create(ENVIRONMENT, with_pip=True)
    packages = ("nncf", "onnx", f"onnxruntime=={version('onnxruntime')}")
    return subprocess.run([python_of(ENVIRONMENT), "-m", "pip", "install", "--quiet", *packages]).returncode


if __name__ == "__main__":
    sys.exit(main())
