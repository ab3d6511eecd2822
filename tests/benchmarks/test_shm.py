"""The benchmark of shared memory: its rows, and its client in C."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import served

from benchmarks.runtime import shm


def test_rows_are_what_a_call_takes_above_the_session_s() -> None:
    session = np.full(100, 200_000, np.int64)
    times = {"session.run in process": session, "Python client": session + 90_000, "C client, copy": session + 50_000}
    rows = shm.figures_of(times, "frames")
    assert [(r.side, r.value, r.is_reached) for r in rows[:3]] == [
        ("session.run in process", 0.0, None),
        ("Python client", 90.0, None),
        ("C client, copy", 50.0, True),
    ]
    assert rows[1].note == "290.0 µs, 1.45 times"
    assert {r.what for r in rows[3:]} == {"frames, p99: above session.run, µs"}
    slow = shm.figures_of({**times, "C client, copy": session + 61_000}, "frames")
    assert slow[2].is_reached is False


def test_the_client_measures_each_call(tmp_path: Path) -> None:
    served.needs_compiled_module()
    source = Path(shm.__file__).with_name("shm_client.c")
    program = served.compile_c(tmp_path / "shm_client", source, sanitize="address,undefined")
    bundle = tmp_path / "frame.bundle"
    shm.onnx.save(shm.to_frame(), tmp_path / "frame.onnx")
    shm.compile(tmp_path / "frame.onnx", out=bundle, target="cpu", precision="fp32")
    asked = argparse.Namespace(calls=5, spin=20)
    with served.serving(bundle) as server:
        for how in ("copy", "in-place"):
            times = shm.run_client(program, server.name, asked, 1000, how)
            assert times.shape == (5,)
            assert times.min() > 0
