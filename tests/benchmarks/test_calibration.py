"""The code that measures calibration; nothing here asserts how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from nets import conv_net, samples_for

from benchmarks.calibration import batches, run, samples
from benchmarks.common import ROOT

_ALL = "entropy,percentile,mse"


@pytest.fixture(scope="module")
def stem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small net and six samples, as models.py leaves them."""
    stem = tmp_path_factory.mktemp("made") / "net"
    graph = conv_net()
    ir.save(graph.model, f"{stem}.onnx")
    samples.write(Path(f"{stem}.npz"), samples_for(graph, 6))
    return stem


def test_samples_come_back_and_then_rolled(tmp_path: Path) -> None:
    made = [{"x": np.arange(3, dtype=np.float32) + 10 * i, "ids": np.array([[i, 7]])} for i in range(2)]
    samples.write(tmp_path / "s.npz", made)
    found = list(samples.read(tmp_path / "s.npz", 5))
    assert [s["x"].tolist() for s in found] == [[0, 1, 2], [10, 11, 12], [2, 0, 1], [12, 10, 11], [1, 2, 0]]
    assert [s["ids"].tolist() for s in found] == [[[0, 7]], [[1, 7]], [[0, 7]], [[1, 7]], [[0, 7]]]


@pytest.mark.parametrize(
    ("side", "methods"), [("plain", ""), ("edgebig-l4", _ALL), ("edgebig-cpu", "min-max"), ("ort", "percentile")]
)
def test_a_side_tells_its_time_and_that_of_the_plain_pass(stem: Path, side: str, methods: str) -> None:
    found = run.run_side(side, methods, stem, 6)
    assert found.keys() == {"seconds", "plain", "loading"} and min(found.values()) > 0


def test_a_side_that_fails_is_named_with_its_reason(stem: Path) -> None:
    with pytest.raises(run.CommandFailed, match="KeyError: 'mse'"):
        run.run_side("ort", "mse", stem, 6)


def test_batches_change_nothing(stem: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "calibration" / "batches.py", f"{stem}.onnx", f"{stem}.npz", "6"]
    done = subprocess.run(command, env=run.environment(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert {m: d for m, d in found.items() if m.startswith("edgebig")} == {
        f"edgebig {m}": 0.0 for m in ("min-max", "average-min-max", "percentile", "entropy", "mse")
    }
    assert {"ort entropy", "ort percentile"} <= found.keys()


def test_difference_is_relative_and_of_the_same_tensors() -> None:
    assert batches.difference({"a": 2.0, "b": 0.0}, {"a": 1.5, "b": 0.0}) == 0.25
    with pytest.raises(ValueError, match=r"other tensors: \['b'\]"):
        batches.difference({"a": 1.0, "b": 1.0}, {"a": 1.0})


def test_a_figure_is_a_row_with_its_median_or_why_there_is_none() -> None:
    assert run.Figure("time", "edgebig", (1.5, 1.0, 3.0), "<= 2").cells() == (
        "time",
        "edgebig",
        "1.5",
        "1 to 3",
        "<= 2",
    )
    assert run.Figure("time", "peer", failure="too large").cells() == ("time", "peer", "none: too large", "", "")


def test_a_peer_that_is_not_installed_is_named(stem: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "ENVIRONMENT", tmp_path / "nncf")
    (found,) = run.modelopt_batches(stem, 6, "difference")
    assert not found.values and found.failure.startswith("not installed: python benchmarks/accuracy/install_peers.py")
