"""Puts NNCF and ModelOpt into environments of their own: python benchmarks/accuracy/install_peers.py [nncf] [modelopt]

Each asks for other versions of packages than edgebig; without them the benchmarks leave their rows out. NNCF shares
benchmarks/.peers/nncf with the benchmark of calibration. ModelOpt needs torch: a CPU build of the version that this
environment has is taken where pip finds one, else it is a download of some gigabytes.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.calibration.install_peers import ENVIRONMENT as NNCF
from benchmarks.calibration.install_peers import python_of

PEERS = {"nncf": NNCF, "modelopt": NNCF.with_name("modelopt")}


def requirements(peer: str) -> list[str]:
    """What pip is asked for."""
    if peer == "nncf":
        return ["nncf", "onnx", f"onnxruntime=={version('onnxruntime')}"]
    try:
        torch = f"torch=={version('torch')}"
    except PackageNotFoundError:
        torch = "torch"
    return [torch, "nvidia-modelopt[onnx]"]


def main() -> int:
    """Makes the environments that are asked for, both by default; the largest of pip's exit codes."""
    asked = sys.argv[1:] or list(PEERS)
    unknown = set(asked) - PEERS.keys()
    if unknown:
        sys.exit(f"unknown peer {sorted(unknown)[0]!r}: choose of {', '.join(PEERS)}")
    codes = []
    for peer in asked:
        venv.create(PEERS[peer], with_pip=True)
        pip = [python_of(PEERS[peer]), "-m", "pip", "install", "--quiet"]
        codes.append(subprocess.run([*pip, *requirements(peer)]).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
