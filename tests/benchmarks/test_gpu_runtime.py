"""The benchmark of the GPU runtime, as far as it goes without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.runtime.gpu import in_turn, one_node, target_of
from benchmarks.runtime.gpu_models import examples
from edgebig.errors import EdgebigError, TargetError
from edgebig.runtime.gpu.cuda import Cuda, import_cuda

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    try:
        Cuda(import_cuda())
    except EdgebigError:
        pass
    else:
        pytest.skip("there is a GPU here")
    command = [sys.executable, str(ROOT / "benchmarks/runtime/gpu.py")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("no GPU to measure on: ") and ran.stderr.count("\n") == 1


def test_targets_follow_from_the_capability() -> None:
    assert target_of("8.9") == "l4" and "orin" in target_of("8.7")
    with pytest.raises(TargetError, match="no target has compute capability 3.5"):
        target_of("3.5")


def test_the_one_node_model(tmp_path: Path) -> None:
    one_node(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    x = np.arange(1000, dtype=np.float32)[None]
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x + x)


def test_sides_take_turns() -> None:
    calls: list[str] = []
    times = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert set(times) == {"a", "b"} and all(0 < seconds < 1 for seconds in times.values())
    assert "".join(calls[20:]) == "aaabbb" * 7
    assert list(examples()) == ["resnet50", "minilm", "llama"]
