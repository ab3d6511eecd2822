"""``edgebig run``: arrays and pictures in, figures and an ``.npz`` out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from cli_runner import Run, files_below
from onnx import TensorProto, helper

from edgebig.runtime import load

RECIPE = """
shapes: {image: 1x3x8x8}
preprocess:
  resize: [8, 8]
  colour: RGB
  scale: 0.00392156862745098
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """``sum = left + right`` and ``product = left * right``, each batch x 2."""
    return tiny.write_bundle(tmp_path / "two.bundle", {"model": tiny.two_inputs()}).path


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """``left.npy``, and ``both.npz`` with arrays of both names."""
    left, right = np.array([[1, 2]], np.float32), np.array([[3, 5]], np.float32)
    np.save(tmp_path / "left.npy", left)
    np.savez(tmp_path / "both.npz", left=left, right=right)
    np.savez(tmp_path / "one.npz", anything=right)
    return tmp_path


def test_run_prints_and_writes_every_output(edgebig: Run, bundle: Path, arrays: Path) -> None:
    out = arrays / "out.npz"
    result = edgebig(
        "run", bundle, "-i", f"left={arrays / 'left.npy'}", "-i", f"right={arrays / 'both.npz'}", "-o", out
    )
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "sum      float32  1x2  min 4 max 7 mean 5.5   [4 7]",
        "product  float32  1x2  min 3 max 10 mean 6.5  [3 10]",
        f"run by onnxruntime-cpu; all outputs are in {out}",
    ]
    with np.load(out) as written:
        assert {name: written[name].tolist() for name in written.files} == {"sum": [[4, 7]], "product": [[3, 10]]}


def test_run_as_json(edgebig: Run, bundle: Path, arrays: Path) -> None:
    np.save(arrays / "huge.npy", np.array([[3e38, 5]], np.float32))
    result = edgebig("run", bundle, "-i", f"left={arrays / 'huge.npy'}", "-i", f"right={arrays / 'one.npz'}", "--json")
    found = result.json
    assert found["outputs"]["sum"]["first"] == [pytest.approx(3e38), 10]
    assert found["outputs"]["product"] == {
        "dtype": "float32",
        "shape": [1, 2],
        "min": 25.0,
        "max": "Infinity",
        "mean": "Infinity",
        "first": ["Infinity", 25.0],
    }
    assert found["backend"] == "onnxruntime-cpu"


@pytest.mark.parametrize(
    ("inputs", "code", "says"),
    [
        (["left"], 2, "NAME=FILE"),
        (["left={}/left.npy", "left={}/both.npz"], 2, "twice"),
        (["leftt={}/left.npy"], 15, "no input 'leftt': its inputs are left, right"),
        (["left={}/left.npy"], 15, "right"),
        (["left={}/absent.npy", "right={}/left.npy"], 15, "no such file: {}/absent.npy"),
        (["left={}/left.npy", "right={}/other.npz"], 15, "other.npz holds a, b"),
        (["left={}/left.npy", "right={}/bad.npy"], 15, "bad.npy is damaged"),
        (["left={}/left.npy", "right={}/int.npy"], 15, "int64"),
        (["left={}/left.npy", "right={}/cat.png"], 15, "preprocess"),
    ],
)
def test_inputs_that_do_not_fit(
    edgebig: Run, bundle: Path, arrays: Path, inputs: list[str], code: int, says: str
) -> None:
    np.savez(arrays / "other.npz", a=np.ones(1), b=np.ones(1))
    np.save(arrays / "int.npy", np.ones((1, 2), np.int64))
    (arrays / "bad.npy").write_bytes(b"\x93NUMPY no more")
    (arrays / "cat.png").write_bytes(b"\x89PNG")
    before = files_below(arrays)
    options = [part for text in inputs for part in ("-i", text.format(arrays))]
    result = edgebig("run", bundle, *options, "-o", arrays / "out.npz")
    assert result.code == code
    assert result.err.count("\n") == 1
    assert says.format(arrays) in result.err
    assert files_below(arrays) == before


def test_outputs_that_cannot_be_written(edgebig: Run, bundle: Path, arrays: Path) -> None:
    inputs = ["-i", f"left={arrays / 'left.npy'}", "-i", f"right={arrays / 'left.npy'}"]
    result = edgebig("run", bundle, *inputs, "-o", arrays / "absent" / "out.npz")
    assert (result.code, result.out) == (13, "")
    assert str(arrays / "absent" / "out.npz") in result.err
    assert edgebig("run", bundle, *inputs, "-o", arrays / "out.txt").code == 2


def test_an_output_whose_name_is_a_word_of_numpy(edgebig: Run, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "file"))
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["file"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    bundle = tiny.write_bundle(tmp_path / "b", {"model": model})
    np.save(tmp_path / "x.npy", np.array([1, 2], np.float32))
    assert edgebig("run", bundle.path, "-i", f"x={tmp_path / 'x.npy'}", "-o", tmp_path / "o.npz").code == 0
    with np.load(tmp_path / "o.npz") as written:
        assert written["file"].tolist() == [-1, -2]


def test_a_picture_is_prepared_as_the_bundle_says(edgebig: Run, tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n", 3, 1, 1])
    graph = helper.make_graph([helper.make_node("GlobalAveragePool", ["image"], ["mean"])], "g", [image], [mean])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), tmp_path / "mean.onnx"
    )
    (tmp_path / "mean.yaml").write_text(RECIPE, encoding="utf-8")
    picture, out = tmp_path / "orange.png", tmp_path / "mean.bundle"
    image_module.new("RGB", (20, 10), (255, 102, 0)).save(picture)
    assert edgebig("compile", tmp_path / "mean.onnx", "-r", tmp_path / "mean.yaml", "-o", out).code == 0
    found = edgebig("run", out, "-i", f"image={picture}", "--json").json
    assert found["outputs"]["mean"]["shape"] == [1, 3, 1, 1]
    assert found["outputs"]["mean"]["first"] == pytest.approx([1.0, 0.4, 0.0], abs=1e-6)
    picture.write_bytes(picture.read_bytes()[:40])
    broken = edgebig("run", out, "-i", f"image={picture}")
    assert broken.code == 15
    assert str(picture) in broken.err


def test_a_bundle_for_a_gpu_warns_in_one_line(edgebig: Run, tmp_path: Path) -> None:
    model = tiny.two_inputs()
    engines = [("tensorrt-rtx", "1.7.1", "8.9")]
    bundle = tiny.write_bundle(tmp_path / "b", {"model": model}, target=tiny.L4_TARGET, engines=engines)
    np.savez(tmp_path / "both.npz", left=np.ones((1, 2), np.float32), right=np.ones((1, 2), np.float32))
    inputs = [part for name in ("left", "right") for part in ("-i", f"{name}={tmp_path / 'both.npz'}")]
    result = edgebig("run", bundle.path, *inputs)
    assert result.code == 0
    assert result.err.startswith("edgebig: warning: ")
    assert "was compiled for l4 and runs on the CPU here" in result.err
    assert result.err.count("\n") == 1


def test_parts_and_what_is_no_bundle(edgebig: Run, tmp_path: Path, arrays: Path) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"encoder": tiny.add_one(), "decoder": tiny.two_inputs()})
    inputs = [part for name in ("left", "right") for part in ("-i", f"{name}={arrays / 'both.npz'}")]
    several = edgebig("run", bundle.path, *inputs)
    assert (several.code, several.out) == (14, "")
    assert "encoder, decoder" in several.err
    assert edgebig("run", bundle.path, *inputs, "--part", "decoder").code == 0
    with load(bundle.path, part="decoder") as session:
        assert [spec.name for spec in session.inputs] == ["left", "right"]
    assert edgebig("run", tmp_path / "absent", *inputs).code == 14
