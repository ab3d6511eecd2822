"""The runtime's benchmark: both sides run the same graph, and its small figures are what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from served import environment

from benchmarks.runtime.models import compiled, digits, one_node
from benchmarks.runtime.run import in_blocks, rate
from benchmarks.runtime.side import bare, feeds_for, graph_of, opened

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime")
    onnx.save(digits(), folder / "digits.onnx")
    return compiled(folder / "digits.onnx", folder)


def test_both_sides_run_the_same_graph(bundle: Path) -> None:
    feeds = feeds_for(bundle)
    assert {name: (array.shape, array.dtype.name) for name, array in feeds.items()} == {
        "x": ((1, 1, 28, 28), "float32")
    }
    ours = opened("edgebig", bundle, graph_of(bundle))(feeds)["y"]
    (theirs,) = bare(graph_of(bundle), threads=1).run(None, feeds)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.shape == (1, 10)


@pytest.mark.parametrize("side", ["edgebig", "ort"])
@pytest.mark.parametrize(("what", "key"), [("load", "seconds"), ("memory", "bytes"), ("calls", "bytes")])
def test_a_side_tells_its_figure(bundle: Path, what: str, side: str, key: str) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "runtime" / "side.py", what, side, bundle, "2000"]
    done = subprocess.run(list(map(str, command)), env=environment(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.keys() == {key} and (what == "calls" or found[key] > 0)


def test_one_node_adds_one(tmp_path: Path) -> None:
    onnx.save(one_node(), tmp_path / "one.onnx")
    (found,) = bare(tmp_path / "one.onnx").run(None, {"x": np.float32([[1, 2, 3, 4]])})
    assert found.tolist() == [[2, 3, 4, 5]]


def test_calls_are_counted() -> None:
    calls = {"a": 0, "b": 0}

    def call(side: str) -> None:
        calls[side] += 1

    times = in_blocks({side: lambda side=side: call(side) for side in calls}, blocks=3, size=10)  # type: ignore[misc]
    assert calls == {"a": 40, "b": 40}  # a block to warm up, three that count
    assert all(seconds > 0 for seconds in times.values())
    assert rate(lambda: call("a"), 2, 0.05) > 0
