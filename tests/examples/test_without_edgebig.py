"""Bundles are read with a JSON parser, sha256sum and ONNX Runtime alone, as docs/bundle-format.md says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny import L4_TARGET, mlp, write_bundle

import edgebig
from edgebig.bundle import Bundle, hash_file

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "without_edgebig"
BARE = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
# The examples run in this environment, in which edgebig can be imported; this makes sure that it is not.
ALONE = """
import runpy, sys
sys.modules["edgebig"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def check(bundle: Path, *part: str) -> subprocess.CompletedProcess[str]:
    command = [str(FOLDER / "check.sh"), str(bundle), *part]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", env=BARE)


def run_alone(bundle: Path, choice: str) -> dict[str, list[dict[str, float]]]:
    command = [sys.executable, "-c", ALONE, str(FOLDER / "run.py"), str(bundle), *choice.rstrip("\n").split("\t")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", env=BARE)
    assert done.returncode == 0, done.stderr
    report: dict[str, list[dict[str, float]]] = json.loads(done.stdout)
    return report


def golden(count: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of ``mlp`` and what NumPy makes of them."""
    model = mlp()
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    rng, arrays = np.random.default_rng(1), {}
    for i in range(count):
        x = rng.normal(size=(2, 8)).astype(np.float32)
        arrays[f"in.x.{i}"] = x
        arrays[f"out.y.{i}"] = np.maximum(x @ weights["a"] + weights["b"], 0) @ weights["c"] + weights["d"]
    return arrays


@pytest.mark.parametrize("external", [False, True])
def test_the_graph_gives_the_golden_outputs(tmp_path: Path, external: bool) -> None:
    write_bundle(tmp_path / "b", {"model": mlp()}, golden=golden(), external=external)
    done = check(tmp_path / "b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "graphs/model.onnx\tevidence/model.npz\tall\n", "")
    report = run_alone(tmp_path / "b", done.stdout)
    assert list(report) == ["y"] and len(report["y"]) == 3
    assert all(found["max_abs"] < 1e-5 and found["cosine"] > 0.999999 for found in report["y"])


def test_a_compiled_int8_bundle_gives_what_its_manifest_says(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    samples = [{"x": np.random.default_rng(i).normal(size=(1, 8)).astype(np.float32)} for i in range(32)]
    edgebig.compile(tmp_path / "m.onnx", target="cpu", precision="int8", calibration=samples, out=tmp_path / "b")
    done = check(tmp_path / "b", "model")
    assert done.returncode == 0, done.stderr
    cosines = [found["cosine"] for found in run_alone(tmp_path / "b", done.stdout)["y"]]
    assert len(cosines) == 4
    stated = Bundle.open(tmp_path / "b").part().similarity["y"]["cosine"]
    assert np.mean(cosines) == pytest.approx(stated, abs=2e-3) or min(cosines) == pytest.approx(stated, abs=2e-3)


def test_optimizations_are_off_where_the_page_asks_for_it(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", {"model": mlp()}, target=L4_TARGET, quantized=True)
    assert check(tmp_path / "b").stdout == "graphs/model.onnx\t-\toff\n"


def test_a_part_is_named_where_there_are_several(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", {"encoder": mlp(), "decoder": mlp(1)})
    assert check(tmp_path / "b").returncode == 1
    assert "name one of its parts: encoder, decoder" in check(tmp_path / "b", "model").stderr
    assert check(tmp_path / "b", "decoder").stdout == "graphs/decoder.onnx\t-\tall\n"
    program = [sys.executable, str(FOLDER / "run.py")]
    for options, said in (
        ([str(tmp_path / "b"), "graphs/decoder.onnx", "-", "all"], "the part keeps no golden inputs\n"),
        ([str(tmp_path / "b")], "usage: run.py BUNDLE GRAPH GOLDEN LEVEL\n"),
    ):
        done = subprocess.run([*program, *options], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and done.stderr.endswith(said) and done.stderr.count("\n") == 1


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def tamper(bundle: Path) -> None:
        data = json.loads((bundle / "manifest.json").read_text())
        change(data)
        (bundle / "manifest.json").write_text(json.dumps(data))

    return tamper


def flip(bundle: Path) -> None:
    content = bytearray((bundle / "graphs/model.onnx").read_bytes())
    content[-1] ^= 1
    (bundle / "graphs/model.onnx").write_bytes(bytes(content))


def name_twice(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace("{", '{"name": "a",', 1))


def link_outside(bundle: Path) -> None:
    (bundle / "graphs/model.onnx").rename(bundle.parent / "away.onnx")
    (bundle / "graphs/model.onnx").symlink_to(bundle.parent / "away.onnx")


def name_outside(bundle: Path) -> None:
    (bundle.parent / "away").write_bytes(b"x")
    entry = hash_file(bundle.parent / "away")
    edit(lambda d: d["files"].update({"../away": {"bytes": entry.bytes, "sha256": entry.sha256}}))(bundle)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (flip, "graphs/model.onnx: FAILED"),
        (lambda b: (b / "graphs/model.onnx").open("ab").write(b"x"), "graphs/model.onnx has another size"),
        (lambda b: (b / "graphs/model.onnx").unlink(), "No such file"),
        (link_outside, "graphs/model.onnx leads outside the bundle"),
        (name_outside, "it names the path '../away'"),
        (edit(lambda d: d.update(schema_version=3)), "schema_version is not 2"),
        (edit(lambda d: d["files"].pop("graphs/model.onnx")), "no hash of graphs/model.onnx"),
        (edit(lambda d: d["files"]["graphs/model.onnx"].update(sha256="zz")), "no properly formatted checksum"),
        (
            lambda b: (b / "manifest.json").write_text(
                (b / "manifest.json").read_text().replace("{", '{"name": "a",', 1)
            ),
            "a key is given twice",
        ),
    ],
)
def test_a_damaged_bundle_is_refused(tmp_path: Path, tamper: Callable[[Path], object], message: str) -> None:
    write_bundle(tmp_path / "b", {"model": mlp()})
    assert check(tmp_path / "b").returncode == 0
    tamper(tmp_path / "b")
    done = check(tmp_path / "b")
    assert done.returncode != 0 and done.stdout == "" and message in done.stderr, done.stderr


def test_the_examples_use_nothing_of_edgebig() -> None:
    for name in ("check.sh", "run.py"):
        lines = (FOLDER / name).read_text().splitlines()
        assert not [line for line in lines if "import" in line and "edgebig" in line]
