"""A trained model, compiled as ever, through the C client: the very bits of ``session.run``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import served

import edgebig

pytest.importorskip("onnx")


def test_faces_are_found_by_way_of_c(shared_data: Path, tmp_path: Path) -> None:
    served.needs_compiled_module()
    program = served.compile_c(tmp_path / "run_model", served.C_CODE / "main.c", sanitize="address,undefined")
    bundle = tmp_path / "ultraface.bundle"
    model = shared_data / "ultraface" / "version-RFB-320.onnx"
    edgebig.compile(model, out=bundle, target="cpu", precision="fp32", keep_original=False)
    frame = np.random.default_rng(0).normal(size=(1, 3, 240, 320)).astype(np.float32)
    frame.tofile(tmp_path / "frame.bin")
    with edgebig.load(bundle, threads=1) as session:
        expected = session.run({session.inputs[0].name: frame})
    with served.serving(bundle) as server:
        command = [program, server.name, "-n", "3", "-o", tmp_path / "out", tmp_path / "frame.bin"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    for number, (name, array) in enumerate(expected.items()):
        shape = "x".join(map(str, array.shape))
        assert f"{name}: dtype 1, shape {shape}" in done.stdout
        assert (tmp_path / f"out.{number}").read_bytes() == array.tobytes()
