"""Bad input: one line that names the culprit, the exit code of its class, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from cli_runner import Result, Run, files_below
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the bundle would be, in a folder of its own."""
    folder = tmp_path / "goal"
    folder.mkdir()
    return folder / "b.bundle"


def assert_refused(result: Result, code: int, *says: str) -> None:
    assert result.code == code, result.err
    assert result.err.startswith("edgebig: error: ")
    assert result.err.count("\n") == 1, result.err
    assert result.err.endswith("\n")
    for text in says:
        assert text in result.err


def refuse(edgebig: Run, model: object, out: Path, *options: object, code: int, says: tuple[str, ...]) -> None:
    """Compiles to ``out``, which must be refused and leave the folder as it was."""
    before = files_below(out.parent)
    assert_refused(edgebig("compile", model, "-o", out, *options), code, *says)
    assert files_below(out.parent) == before


def test_no_such_file(edgebig: Run, tmp_path: Path, out: Path) -> None:
    for name in ("absent.onnx", "absent"):
        missing = tmp_path / name
        refuse(edgebig, missing, out, code=4, says=("no such file", str(missing)))


def test_not_an_onnx_file(edgebig: Run, tmp_path: Path, out: Path) -> None:
    contents = {
        "text.onnx": b"hello, this is no model\n",
        "zeros.onnx": bytes(4096),
        "empty.onnx": b"",
        "m.pdf": b"%PDF",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        refuse(edgebig, path, out, code=4, says=(str(path),))
    path.unlink()
    (tmp_path / "folder").mkdir()
    refuse(edgebig, tmp_path / "folder", out, code=4, says=(str(tmp_path / "folder"),))


def test_a_truncated_model(edgebig: Run, tmp_path: Path, out: Path, shared_data: Path) -> None:
    whole = (shared_data / "ultraface" / "version-RFB-320.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for length in (1, 100, 1000, len(whole) // 3, len(whole) // 2, len(whole) - 1000, len(whole) - 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        refuse(edgebig, path, out, code=4, says=(str(path),))


def with_external_data(folder: Path, location: str = "weights.bin") -> tuple[Path, Path]:
    """The model ``mlp`` with its weights in a file; its path and the weights'."""
    folder.mkdir(exist_ok=True)
    model, weights = folder / "mlp.onnx", folder / "weights.bin"
    onnx.save(tiny.mlp(), model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if location != "weights.bin":
        proto = onnx.load(model, load_external_data=False)
        for tensor in proto.graph.initializer:
            next(e for e in tensor.external_data if e.key == "location").value = location
        onnx.save(proto, model)
    return model, weights


def test_external_data_that_is_missing_or_cut_short(edgebig: Run, tmp_path: Path, out: Path) -> None:
    model, weights = with_external_data(tmp_path / "m")
    weights.write_bytes(weights.read_bytes()[:-4])
    refuse(edgebig, model, out, code=4, says=("weights.bin", "the file ends at"))
    weights.unlink()
    refuse(edgebig, model, out, code=4, says=("weights.bin", "which is not there"))


def test_external_data_outside_the_folder(edgebig: Run, tmp_path: Path, out: Path) -> None:
    outside = tmp_path / "secret.bin"
    for location in ("../secret.bin", str(outside), "sub/../../secret.bin"):
        model, weights = with_external_data(tmp_path / "m", location)
        weights.rename(outside)
        refuse(edgebig, model, out, code=4, says=(location, "outside the model's folder"))
    model, weights = with_external_data(tmp_path / "m")
    weights.rename(outside)
    weights.symlink_to(outside)
    refuse(edgebig, model, out, code=4, says=("weights.bin", "outside the model's folder"))


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("-t", "l5"), 9, ("'l5'", "edgebig targets")),
        (("-t", "absent.yaml"), 9, ("absent.yaml",)),
        (("-r", "imagnet"), 8, ("'imagnet'", "imagenet")),
        (("-r", "absent.yaml"), 8, ("absent.yaml",)),
        (("--task", "fill-mask"), 2, ("fill-mask", "mlp.onnx")),
        (("-p", "int9"), 2, ("int9", "int8")),
        (("-p", "int8"), 7, ("int8", "--calib")),
        (("-p", "int8", "-c", "absent"), 7, ("absent",)),
        (("-p", "int8", "-c", "ready:absent"), 7, ("ready:absent", "ready:sentences")),
        (("-p", "fp8", "-t", "agx-orin-64gb"), 10, ("fp8", "agx-orin-64gb")),
        (("-p", "fp8", "-t", "a100"), 10, ("fp8", "a100")),
        (("-s", "z:1x8"), 2, ("--shapes", "'z'", "x")),
        (("-s", "x:1xy"), 2, ("'x:1xy'", "name:1x3x224x224")),
        (("-s", "x:1x8,"), 2, ("''",)),
        (("-s", "x:1x8x8"), 2, ("x", "2 axes")),
        (("-s", "x:1x9"), 2, ("x",)),
        (("-s", "x:1x8", "--min-shapes", "x:1x8"), 2, ("--shapes", "--min-shapes")),
        (("--min-shapes", "x:2x8", "--opt-shapes", "x:1x8", "--max-shapes", "x:4x8"), 2, ("min <= opt",)),
        (("--freeze", "z=1"), 2, ("--freeze", "'z'", "x")),
        (("--freeze", "x"), 2, ("--freeze", "NAME=VALUE", "'x'")),
        (("--freeze", "x=ten"), 2, ("--freeze", "'x=ten'")),
        (("-v", "-q"), 2, ("-v", "-q")),
        (("--such",), 2, ("--such", "edgebig compile -h")),
    ],
)
def test_a_request_that_cannot_be_met(
    edgebig: Run, mlp: Path, out: Path, options: tuple[str, ...], code: int, says: tuple[str, ...]
) -> None:
    refuse(edgebig, mlp, out, *options, code=code, says=says)


def test_an_unknown_task(edgebig: Run, tmp_path: Path, out: Path) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    folder = tmp_path / "bert"
    folder.mkdir()
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    refuse(edgebig, folder, out, "--task", "make-coffee", code=4, says=("make-coffee", "feature-extraction"))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ones((5, 9), np.float32), ("x", "9")),
        (np.ones((5, 8, 8, 8), np.float32), ("x", "5x8x8x8")),
        (np.ones((5, 8), np.int64), ("x", "int64", "float32")),
        (np.full((5, 8), np.nan, np.float32), ("x", "NaN")),
        (np.ones((0, 8), np.float32), ("samples",)),
        (np.array([{"a": 1}] * 8, dtype=object), ("damaged",)),
    ],
    ids=["size", "rank", "dtype", "nan", "no rows", "pickled"],
)
def test_calibration_data_that_does_not_fit(
    edgebig: Run, mlp: Path, tmp_path: Path, out: Path, array: np.ndarray, says: tuple[str, ...]
) -> None:
    np.savez(tmp_path / "bad.npz", x=array)
    refuse(edgebig, mlp, out, "-p", "int8", "-c", tmp_path / "bad.npz", code=7, says=says)


def test_calibration_folders_that_hold_nothing_of_use(edgebig: Run, mlp: Path, tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "calib"
    folder.mkdir()
    refuse(edgebig, mlp, out, "-p", "int8", "-c", folder, code=7, says=(str(folder), "empty"))
    np.savez(folder / "a.npz", other=np.ones((5, 8), np.float32))
    refuse(edgebig, mlp, out, "-p", "int8", "-c", folder, code=7, says=("a.npz", "'x'", "other"))
    (folder / "a.npz").write_bytes(b"PK\x03\x04 no archive")
    refuse(edgebig, mlp, out, "-p", "int8", "-c", folder, code=7, says=("a.npz",))


@pytest.mark.parametrize("target", ["l4", "agx-orin-64gb"])
def test_an_operator_that_tensorrt_refuses(edgebig: Run, tmp_path: Path, out: Path, target: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="first"),
        helper.make_node("Det", ["r"], ["y"], name="culprit"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [2, 3, 3]), ("y", [2])))
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 19)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "det.onnx")
    refuse(edgebig, tmp_path / "det.onnx", out, "-t", target, code=11, says=("Det", "culprit", "--target cpu"))


def test_an_output_path_that_exists(edgebig: Run, mlp: Path, out: Path) -> None:
    assert edgebig("compile", mlp, "-o", out, "-q") == Result(0, f"{out}\n", "")
    made = (out / "manifest.json").read_bytes()
    refuse(edgebig, mlp, out, code=13, says=(str(out), "--force"))
    assert (out / "manifest.json").read_bytes() == made
    refuse(edgebig, mlp.with_name("absent.onnx"), out, "--force", code=4, says=("absent.onnx",))
    assert (out / "manifest.json").read_bytes() == made
    own = out.parent / "photos"
    own.mkdir()
    (own / "holiday.jpg").write_bytes(b"precious")
    refuse(edgebig, mlp, own, "--force", code=13, says=(str(own), "not a bundle"))


def test_an_output_path_that_is_not_writable(edgebig: Run, mlp: Path, tmp_path: Path, out: Path) -> None:
    for goal in (Path("/proc/b.bundle"), tmp_path / "absent" / "b.bundle", mlp / "b.bundle"):
        assert_refused(edgebig("compile", mlp, "-o", goal), 13, str(goal))
    assert files_below(tmp_path) == ["goal", "mlp.onnx"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small file system")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"mount failed here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("options", [(), ("-t", "l4", "-p", "fp16"), ("-t", "agx-orin-64gb", "-p", "fp16")])
def test_a_disk_that_is_full(edgebig: Run, small_disk: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    if options:
        pytest.importorskip("tensorrt_rtx_bindings")
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32), "w")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 512]) for n in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "wide.onnx")
    out = small_disk / "b.bundle"
    refuse(edgebig, tmp_path / "wide.onnx", out, *options, code=13, says=(str(out), "No space left", "free some space"))
    (small_disk / "filler").write_bytes(bytes(190_000))
    refuse(edgebig, tmp_path / "wide.onnx", out, *options, code=13, says=(str(out), "No space left"))
