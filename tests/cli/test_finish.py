"""``edgebig finish``: what it says before it builds, and one line for whatever stands in its way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from cli_runner import ROOT, Run

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEBIG_ENGINES", str(tmp_path / "engines"))
    tiny.write_bundle(tmp_path / "b", {"model": tiny.mlp()}, target=tiny.L4_TARGET)
    return tmp_path / "b"


def test_a_dry_run_builds_nothing(edgebig: Run, path: Path) -> None:
    result = edgebig("finish", path, "--dry-run")
    assert result.code == 0
    assert result.out.splitlines()[1].startswith(f"model: no engine yet: run 'edgebig finish {path}'")
    assert not (path / "finished").exists()
    found = edgebig("finish", path, "--dry-run", "--json").json
    assert found["parts"]["model"]["fitting"] is None and found["parts"]["model"]["part"] == "model"
    assert set(found["machine"]) == {"machine", "jetson", "cuda", "problem"}


def test_what_stands_in_the_way_is_one_line(edgebig: Run, path: Path, tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "cpu", {"model": tiny.mlp()})
    for arguments, code, says in [
        ((tmp_path / "absent",), 14, "is not a bundle (no such folder)"),
        ((tmp_path / "cpu",), 2, "is for cpu, a processor: it needs no finishing"),
        ((path, "--part", "decoder"), 14, "it has no part 'decoder': model"),
        ((path, "--opt-level", "9"), 2, "9 is not in the range 0<=x<=5"),
        ((path, "--workspace", "512"), 2, "workspace is 1M or more, found 512 bytes: write 512M or 2G"),
        ((path, "--workspace", "much"), 2, "workspace is written 2G, 512M or a number of bytes, found 'much'"),
        ((path, "--no-gpu-fallback"), 2, "name its core with --dla-core"),
    ]:
        result = edgebig("finish", *arguments)
        assert (result.code, len(result.err.splitlines())) == (code, 1), result.err
        assert says in result.err


def test_without_a_gpu_it_says_so(edgebig: Run, path: Path) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("a GPU is here")
    result = edgebig("finish", path)
    assert result.code == 16 and len(result.err.splitlines()) == 1
    assert f"cannot finish {path} here: " in result.err and "finish it on the device" in result.err


def test_a_finish_with_json_prints_one_object(path: Path, tmp_path: Path) -> None:
    import json

    from device.machines import l4_bundle

    l4_bundle(tmp_path / "c")
    folders = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/device'}"
    command = [sys.executable, ROOT / "tests/device/finish_process.py", "finish", tmp_path / "c", "--json"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": folders}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (engine,) = json.loads(done.stdout)["engines"]["model"]
    assert engine["hardware"] == ["8.9"] and engine["path"].startswith("finished/model.tensorrt-rtx-")
    assert "model: building" in done.stderr and "golden inputs: cosine" in done.stderr
