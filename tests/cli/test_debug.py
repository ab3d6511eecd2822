"""``edgebig debug`` names the layer that was ruined, and saves a piece that shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from broken import quantized, ruined
from cli_runner import Run
from nets import conv_net, net, node, normal, samples_for

import edgebig as package
from edgebig.bundle import Bundle
from edgebig.graph import Graph
from edgebig.quantize import lower_floats


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A quantized graph whose second convolution is ruined, the original, and inputs."""
    graph = conv_net()
    samples = samples_for(graph, 3)
    ruined(quantized(graph, samples, "l4"), "w2", 1.8).save(tmp_path / "broken.onnx")
    graph.save(tmp_path / "original.onnx")
    np.savez(tmp_path / "inputs.npz", **{f"in.x.{i}": s["x"] for i, s in enumerate(samples)})
    return tmp_path / "broken.onnx", tmp_path / "original.onnx", tmp_path / "inputs.npz"


def test_two_files(edgebig: Run, pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    broken, original, inputs = pair
    out = tmp_path / "found"
    result = edgebig("debug", broken, "--against", original, "--inputs", inputs, "-o", out)
    assert result.code == 0 and result.err == ""
    assert "The error jumps first at conv2 (Conv, int8 x int8): own SQNR" in result.out
    assert "on 3 inputs of" in result.out and f"The smallest piece that shows it has 4 nodes: {out}" in result.out
    assert "conv2" in {n.name for n in onnx.load(out / "subgraph.onnx").graph.node}
    assert [n.name for n in onnx.load(out / "subgraph.float.onnx").graph.node] == ["conv2"]
    text = (out / "README.txt").read_text(encoding="utf-8")
    assert text.startswith(f"{broken} against {original}") and "conv2" in text


def test_json(edgebig: Run, pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    broken, original, inputs = pair
    found = edgebig("debug", broken, "--against", original, "--inputs", inputs, "-o", tmp_path / "found", "--json").json
    assert found["status"] == "wrong" and found["first_jump"]["name"] == "conv2"
    assert found["first_jump"]["share"] > 0.9 and "conv2" in found["nodes"]
    assert {x["name"] for x in found["layers"]} >= {"conv1", "conv2", "y"}
    assert found["subgraph"] == str(tmp_path / "found")


def test_equal_files(edgebig: Run, pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, original, inputs = pair
    before = sorted(os.listdir(tmp_path))
    result = edgebig("debug", original, "--against", original, "--inputs", inputs)
    assert result.code == 0 and "Nothing is wrong: both give the same." in result.out
    assert sorted(os.listdir(tmp_path)) == before


def test_fp16_overflow_and_made_inputs(edgebig: Run, tmp_path: Path) -> None:
    graph = net(
        [node("MatMul", "x w", "small"), node("Mul", "small big", "large"), node("Mul", "large tiny", "y")],
        {"x": ["n", 64]},
        ["y"],
        {"w": normal(64, 64), "big": np.array(60000, np.float32), "tiny": np.array(1e-4, np.float32)},
    )
    graph.save(tmp_path / "original.onnx")
    lower_floats(graph, ir.DataType.FLOAT16, None)
    graph.save(tmp_path / "half.onnx")
    out = tmp_path / "found"
    result = edgebig("debug", tmp_path / "half.onnx", "--against", tmp_path / "original.onnx", "-o", out)
    assert "The first NaN or infinity comes from large (Mul, float16), in its output large." in result.out
    assert "made inputs" in result.out
    assert [n.name for n in onnx.load(out / "subgraph.float.onnx").graph.node] == ["large"]


def test_a_bundle_with_its_original(edgebig: Run, tmp_path: Path) -> None:
    graph = conv_net()
    graph.save(tmp_path / "conv.onnx")
    data = samples_for(graph, 24)
    bundle = tmp_path / "b"
    package.compile(tmp_path / "conv.onnx", precision="int8", calibration=data, keep_original=True, out=bundle)
    result = edgebig("debug", bundle)
    assert result.code == 0 and "Nothing is wrong: no output loses more than 0.01 of its cosine" in result.out
    assert "uint8 x int8" in result.out and not (tmp_path / "b.debug").exists()
    strict = edgebig("debug", bundle, "--max-drop", 0, "-o", tmp_path / "found")
    assert strict.code == 0 and (tmp_path / "found" / "subgraph.onnx").is_file()
    Bundle.open(bundle).verify()


@pytest.mark.parametrize(
    ("target", "precision"), [("cpu", "int8"), ("l4", "int8"), ("l4", "fp8"), ("rtx-5090", "nvfp4")]
)
def test_the_piece_of_a_bundle_shows_the_difference_by_itself(
    edgebig: Run, target: str, precision: str, tmp_path: Path
) -> None:
    """Calibrated with values a fiftieth of those that it is given: activations are clipped."""
    if target != "cpu":
        pytest.importorskip("tensorrt_rtx_bindings")
    graph = net(
        [
            node("MatMul", "x wa", "a"),
            node("Relu", "a", "ra"),
            node("MatMul", "ra wb", "b"),
            node("Relu", "b", "rb"),
            node("MatMul", "rb wc", "y"),
        ],
        {"x": ["n", 64]},
        ["y"],
        {f"w{n}": normal(64, 64, seed=i, scale=0.15) for i, n in enumerate("abc")},
    )
    graph.save(tmp_path / "m.onnx")
    narrow = [{"x": s["x"] * np.float32(0.02)} for s in samples_for(graph, 24)]
    np.savez(tmp_path / "inputs.npz", **{f"in.x.{i}": s["x"] for i, s in enumerate(samples_for(graph, 2, seed=9))})
    bundle, out = tmp_path / "b", tmp_path / "found"
    recipe = package.Recipe(repair=(), precision=precision)
    package.compile(
        tmp_path / "m.onnx", target=target, recipe=recipe, calibration=narrow, keep_original=True, out=bundle
    )
    found = edgebig("debug", bundle, "--inputs", tmp_path / "inputs.npz", "--max-drop", 1e-4, "-o", out, "--json").json
    jump = found["first_jump"]["name"]
    assert found["status"] == "wrong" and jump in {"a", "b", "y"} and jump in found["nodes"]
    piece = onnx.load(out / "subgraph.onnx")
    assert sum(n.op_type.startswith(("MatMul", "QLinearMatMul")) for n in piece.graph.node) < 3
    code = "\n".join(line[2:] for line in (out / "README.txt").read_text().split("Run it\n")[1].splitlines())
    done = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, check=True)
    largest, scale = map(float, done.stdout.split())
    # clipped to a fiftieth nearly all is lost; FP4 weights lose a few hundredths
    assert largest > (0.02 if precision == "nvfp4" else 0.5) * scale


def test_what_is_missing_is_said(edgebig: Run, pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    broken, original, inputs = pair
    package.compile(original, out=tmp_path / "plain")
    package.compile(
        original, recipe=package.Recipe(golden_inputs="private"), keep_original=True, out=tmp_path / "private"
    )
    mlp = net([node("Relu", "a", "b")], {"a": [3]}, ["b"])
    mlp.save(tmp_path / "other.onnx")
    other = net([node("Relu", "x", "z")], {"x": ["n", 3, 8, 8]}, ["z"])
    other.save(tmp_path / "outputs.onnx")
    np.savez(tmp_path / "wrong.npz", z=np.zeros(3))
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "taken").mkdir()
    for arguments, code, message in [
        ([tmp_path / "plain"], 14, "keeps no original to compare with: compile the model with --keep-original"),
        ([tmp_path / "private"], 14, "keeps no inputs: give --inputs FILE.npz"),
        ([broken], 2, "give --against ORIGINAL.onnx"),
        ([tmp_path / "absent"], 4, "no such file or folder"),
        ([broken, "--against", tmp_path / "absent.onnx"], 4, "no such file"),
        ([broken, "--against", tmp_path / "other.onnx"], 2, "take different inputs: x float32, the original a float32"),
        ([broken, "--against", tmp_path / "outputs.onnx"], 2, "no output in common: broken has y, the original z"),
        ([broken, "--against", original, "--part", "decoder"], 2, "is no bundle, only those have parts"),
        ([broken, "--against", original, "--inputs", tmp_path / "wrong.npz"], 15, "should hold the arrays x, found z"),
        ([broken, "--against", original, "--inputs", tmp_path / "text.npz"], 15, "holds no arrays"),
        ([broken, "--against", original, "--inputs", tmp_path / "no.npz"], 15, "no such file"),
        ([broken, "--against", original, "-o", tmp_path / "taken"], 13, "taken exists: choose another name with -o"),
    ]:
        result = edgebig("debug", *arguments)
        assert result.code == code and message in result.err and result.err.count("\n") == 1, (arguments, result)
    assert Graph.load(broken).inputs[0].name == "x" and inputs.is_file()
