"""``edgebig bench``: every backend, and the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny
from cli_runner import Run

GOLDEN = {"in.x.0": np.ones((1, 8), np.float32), "out.y.0": np.ones((1, 4), np.float32)}


def test_a_compiled_model_against_its_original(edgebig: Run, mlp: Path, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.bundle"
    assert edgebig("compile", mlp, "-o", out, "-p", "int8", "-c", samples, "--keep-original").code == 0
    found = edgebig("bench", out, "--seconds", "0.05", "--threads", "1", "--json").json
    assert (found["seconds"], found["threads"]) == (0.05, 1)
    part = found["parts"]["model"]
    assert part["inputs"] == {"x": [1, 8]}
    (row,) = part["backends"]
    assert (row["backend"], row["available"]) == ("onnxruntime-cpu", True)
    for figures in (row, part["original"]):
        assert 0 < figures["p50_ms"] <= figures["p90_ms"] <= figures["p99_ms"]
        assert figures["runs"] >= 1
        assert figures["throughput_per_s"] > 0
    assert row["times_as_fast_as_original"] == part["original"]["p50_ms"] / row["p50_ms"]
    shown = edgebig("bench", out, "--seconds", "0.02")
    assert (shown.code, shown.err) == (0, "")
    assert "times as fast" in shown.out
    assert "original, float32" in shown.out


def test_backends_that_are_not_here_are_named_with_the_reason(edgebig: Run, tmp_path: Path) -> None:
    bundle = tiny.write_bundle(
        tmp_path / "b",
        {"model": tiny.mlp()},
        target=tiny.L4_TARGET,
        engines=[("tensorrt-rtx", "1.7.1", "8.9")],
        golden=GOLDEN,
    )
    result = edgebig("bench", bundle.path, "--seconds", "0.02", "--json")
    assert result.err == ""
    part = result.json["parts"]["model"]
    rtx, *providers, cpu = part["backends"]
    assert (rtx["backend"], rtx["available"]) == ("tensorrt-rtx", False)
    assert rtx["reason"]
    assert [(row["backend"], row["available"]) for row in providers] == [
        ("onnxruntime-tensorrt", False),
        ("onnxruntime-cuda", False),
    ]
    assert (cpu["backend"], cpu["available"]) == ("onnxruntime-cpu", True)
    assert part["original"] is None
    shown = edgebig("bench", bundle.path, "--seconds", "0.02").out
    assert f"  tensorrt-rtx: not here: {rtx['reason']}\n" in shown
    assert "--keep-original" in shown


def test_layers_are_shown_slowest_first(edgebig: Run, tmp_path: Path) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.mlp()}, golden=GOLDEN)
    part = edgebig("bench", bundle.path, "--seconds", "0.01", "--layers", "--json").json["parts"]["model"]
    layers = part["backends"][0]["layers"]
    assert layers and all(layer["ms"] >= 0 and layer["layer"] for layer in layers)
    shown = edgebig("bench", bundle.path, "--seconds", "0.01", "--layers").out.splitlines()
    start = shown.index("  layers on onnxruntime-cpu:")
    times = [float(line.split()[-3]) for line in shown[start + 2 : start + 2 + len(layers)]]
    assert times == sorted(times, reverse=True)
    assert "layers" not in edgebig("bench", bundle.path, "--seconds", "0.01").out


def test_parts_and_bad_requests(edgebig: Run, tmp_path: Path) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"one": tiny.mlp(), "two": tiny.mlp(1)}, golden=GOLDEN)
    assert list(edgebig("bench", bundle.path, "--seconds", "0.01", "--json").json["parts"]) == ["one", "two"]
    only = edgebig("bench", bundle.path, "--seconds", "0.01", "--json", "--part", "two").json["parts"]
    assert list(only) == ["two"]
    for options, code in (
        (("--part", "three"), 14),
        (("--seconds", "0"), 2),
        (("--seconds", "x"), 2),
        (("--threads", "0"), 2),
    ):
        result = edgebig("bench", bundle.path, *options)
        assert (result.code, result.out) == (code, "")
        assert result.err.count("\n") == 1
    empty = tiny.write_bundle(tmp_path / "empty", {"model": tiny.mlp()})
    assert edgebig("bench", empty.path).code == 14
