"""read_onnx: a file as it is, or one line that says why not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest
import tiny
from textnets import assert_near, net, normal, run

from edgebig.errors import SourceError
from edgebig.graph import Executor
from edgebig.source import read_onnx


def test_a_file_becomes_a_source_of_one_part(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(tiny.mlp(), path)
    source = read_onnx(path)
    assert (source.kind, source.name, source.task, source.notes) == ("onnx", "net", None, (f"opset {tiny.OPSET}",))
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    (part,) = source.parts
    assert (part.name, part.original, part.examples, dict(part.axes)) == ("model", path, (), {})
    assert [s.name for s in part.graph.inputs] == ["x"]


def test_external_data_comes_along(tmp_path: Path) -> None:
    onnx.save(tiny.mlp(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    feeds = {"x": normal(2, 8)}
    (part,) = read_onnx(tmp_path / "m.onnx").parts
    with Executor(part.graph) as executor:
        assert_near(executor.run(feeds), run(tiny.mlp(), feeds))


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.999])
def test_a_real_model_that_is_cut_short_is_refused(tmp_path: Path, shared_data: Path, cut: float) -> None:
    whole = (shared_data / "ultraface" / "version-RFB-320.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(SourceError, match="is not an ONNX model, or is cut short"):
        read_onnx(path)


def test_text_is_refused(tmp_path: Path) -> None:
    text = onnx.helper.make_tensor_value_info("words", onnx.TensorProto.STRING, ["n"])
    same = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, ["n"])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["words"], ["y"])], "g", [text], [same])
    onnx.save(onnx.helper.make_model(graph, ir_version=9), tmp_path / "text.onnx")
    with pytest.raises(SourceError, match=r"text\.onnx: the input 'words' holds text, .* without its tokenizer"):
        read_onnx(tmp_path / "text.onnx")


def test_what_onnx_runtime_refuses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    onnx.save(net("float[2] x", "float[2] y", "y = NoSuchOperator(x)", check=False), path)
    with pytest.raises(SourceError, match="NoSuchOperator.*export the model anew") as caught:
        read_onnx(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["w.bin", "m.onnx"])
def test_missing_files_are_named(tmp_path: Path, missing: str) -> None:
    onnx.save(tiny.mlp(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / missing).unlink()
    with pytest.raises(SourceError, match=missing.replace(".", r"\.")):
        read_onnx(tmp_path / "m.onnx")
