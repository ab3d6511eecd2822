"""``edgebig inspect``: ONNX files, Hugging Face folders and bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from cli_runner import Run


def test_an_onnx_file(edgebig: Run, mlp: Path) -> None:
    found = edgebig("inspect", mlp, "--json").json
    assert found == {
        "kind": "onnx",
        "path": str(mlp),
        "bytes": mlp.stat().st_size,
        "producer": "",
        "opset": 19,
        "domains": {"": 19},
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 8]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 4]}],
        "nodes": 3,
        "operators": {"Gemm": 2, "Relu": 1},
        "parameters": 8 * 16 + 16 + 16 * 4 + 4,
        "weights": {"float32": {"elements": 212, "bytes": 848}},
        "external_data": {},
    }
    shown = edgebig("inspect", mlp)
    assert (shown.code, shown.err) == (0, "")
    assert f"{mlp}: ONNX, opset 19, " in shown.out
    assert "  Gemm  2\n  Relu  1\n" in shown.out


def test_external_data_and_constants_count(edgebig: Run, tmp_path: Path) -> None:
    model = tiny.mlp()
    constant = onnx.helper.make_node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.ones(4, np.float16)))
    model.graph.node.append(constant)
    path = tmp_path / "external.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    found = edgebig("inspect", path, "--json").json
    assert found["external_data"] == {"w.bin": (tmp_path / "w.bin").stat().st_size}
    assert found["weights"] == {"float32": {"elements": 212, "bytes": 848}, "float16": {"elements": 4, "bytes": 8}}
    (tmp_path / "w.bin").unlink()
    missing = edgebig("inspect", path)
    assert missing.code == 4
    assert "w.bin" in missing.err


def test_real_models(edgebig: Run, shared_data: Path) -> None:
    def inspected(*path: str) -> dict[str, Any]:
        result = edgebig("inspect", shared_data.joinpath(*path), "--json")
        assert (result.code, result.err) == (0, "")
        return result.json

    found = inspected("squeezenet", "squeezenet1.1_fp32.onnx")
    assert found["parameters"] == 1_235_496
    assert found["operators"]["Conv"] == 26
    vad = inspected("silero-vad", "silero_vad.onnx")
    assert [spec["name"] for spec in vad["inputs"]] == ["input", "state", "sr"]
    assert vad["operators"]["LSTM"] == 4  # those in the branches of its If nodes too


def test_a_hugging_face_folder(edgebig: Run, tmp_path: Path) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    found = edgebig("inspect", tmp_path, "--json").json
    assert (found["kind"], found["model_type"], found["architectures"]) == ("huggingface", "bert", ["BertForMaskedLM"])
    assert {"fill-mask", "feature-extraction", "text-classification"} <= set(found["tasks"])
    assert found["weight_bytes"] == 1000
    assert found["bytes"] == 1000 + len(json.dumps(config))
    assert "fill-mask" in edgebig("inspect", tmp_path).out


def test_a_bundle(edgebig: Run, mlp: Path, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.bundle"
    assert edgebig("compile", mlp, "-o", out, "-p", "int8", "-c", samples).code == 0
    found = edgebig("inspect", out, "--json").json
    assert (found["kind"], found["name"], found["precision"], found["intact"]) == ("bundle", "mlp", "int8", True)
    assert found["target"]["name"] == "cpu"
    assert found["source"]["kind"] == "onnx"
    assert len(found["stages"]) == 6
    graph = found["files"]["graphs/model.onnx"]
    assert graph["bytes"] == (out / "graphs" / "model.onnx").stat().st_size
    assert (len(graph["sha256"]), graph["intact"]) == (64, True)
    assert found["parts"]["model"]["similarity"]["y"]["cosine"] > 0.99
    shown = edgebig("inspect", out).out
    for text in ("every file is as it was written", "min-max ranges", "cosine 0.99", "onnxruntime"):
        assert text in shown


def test_a_damaged_bundle_says_which_file(edgebig: Run, mlp: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.bundle"
    assert edgebig("compile", mlp, "-o", out).code == 0
    graph = out / "graphs" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"x")
    found = edgebig("inspect", out, "--json").json
    assert found["intact"] is False
    assert [name for name, file in found["files"].items() if not file["intact"]] == ["graphs/model.onnx"]
    assert "DAMAGED: " in edgebig("inspect", out).out
    (out / "manifest.json").write_text("{", encoding="utf-8")
    assert edgebig("inspect", out).code == 14


def test_what_is_neither(edgebig: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model", encoding="utf-8")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "absent"):
        result = edgebig("inspect", path)
        assert (result.code, result.out) == (4, "")
        assert str(path) in result.err
        assert result.err.count("\n") == 1


def test_what_was_asked_of_the_builder_shows(edgebig: Run, tmp_path: Path) -> None:
    from dataclasses import replace

    from edgebig.bundle import manifest_text

    engines = [("tensorrt", "10.3.0", "8.7"), ("tensorrt", "10.3.0", "8.7")]
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.mlp()}, target=tiny.L4_TARGET, engines=engines)
    first, second = bundle.part().engines
    asked = replace(first, dla=1, version_compatible=True), replace(second, stripped=True, weight_streaming=3 << 29)
    manifest = replace(bundle.manifest, parts={"model": replace(bundle.part(), engines=asked)})
    (tmp_path / "b" / "manifest.json").write_text(manifest_text(manifest))
    shown = edgebig("inspect", tmp_path / "b").out
    assert "engines/model.0.engine: tensorrt 10.3.0 for 8.7, DLA core 1, version-compatible\n" in shown
    assert "for 8.7, without weights, streaming weights, 1536M of them on the GPU\n" in shown
