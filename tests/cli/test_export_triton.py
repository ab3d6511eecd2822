"""``edgebig export-triton``."""

from __future__ import annotations

import json
from pathlib import Path

from cli_runner import Run, files_below
from tiny import mlp, write_bundle
from triton_proto import parse


def test_it_writes_a_repository_and_says_so(edgebig: Run, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", {"model": mlp()})
    repository = tmp_path / "repo"
    done = edgebig("export-triton", tmp_path / "b", repository, "--max-batch", 4, "--instances", 2)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{repository}/tiny: onnxruntime_onnx, version 1, batches of up to 4",
        "  tiny: no warm-up: the bundle keeps no golden inputs for it",
    ]
    config = parse((repository / "tiny/config.pbtxt").read_text())
    assert (config.max_batch_size, config.instance_group[0].count) == (4, 2)
    assert [name for name in files_below(repository) if "." in name] == ["tiny/1/model.onnx", "tiny/config.pbtxt"]


def test_json_and_quiet(edgebig: Run, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", {"encoder": mlp(), "decoder": mlp(1)})
    done = edgebig("export-triton", tmp_path / "b", tmp_path / "r", "--name", "t5", "--json")
    assert done.code == 0
    first, second = done.json["models"]
    assert (first["name"], first["part"], second["name"]) == ("t5_encoder", "encoder", "t5_decoder")
    assert first["files"] == {"model.onnx": "graphs/encoder.onnx"}
    assert (first["platform"], first["version"], first["max_batch_size"]) == ("onnxruntime_onnx", 1, 8)
    done = edgebig("export-triton", tmp_path / "b", tmp_path / "r", "--name", "u", "--version", 3, "-q")
    assert done.out.splitlines() == [f"{tmp_path}/r/u_encoder", f"{tmp_path}/r/u_decoder"]
    assert (tmp_path / "r/u_decoder/3/model.onnx").is_file()


def test_a_model_that_is_there_is_kept(edgebig: Run, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", {"model": mlp()})
    assert edgebig("export-triton", tmp_path / "b", tmp_path / "r").code == 0
    again = edgebig("export-triton", tmp_path / "b", tmp_path / "r", "--json")
    assert again.code == 13 and again.err.count("\n") == 1
    assert "take another --version, or replace the model with --force" in json.loads(again.out)["error"]["message"]
    assert edgebig("export-triton", tmp_path / "b", tmp_path / "r", "--version", 2).code == 0
    assert edgebig("export-triton", tmp_path / "b", tmp_path / "r", "--force").code == 0
    assert [p.name for p in (tmp_path / "r/tiny").iterdir() if p.is_dir()] == ["1"]


def test_classes_go_along(edgebig: Run, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"model": mlp()})
    labels = tmp_path / "b/processor/labels.json"
    labels.parent.mkdir()
    labels.write_text(json.dumps({str(i): name for i, name in enumerate(["cat", "dog", "ox", "hen"])}))
    from edgebig.bundle import hash_file, manifest_text

    bundle.manifest.files["processor/labels.json"] = hash_file(labels)
    (tmp_path / "b/manifest.json").write_text(manifest_text(bundle.manifest))
    assert edgebig("export-triton", tmp_path / "b", tmp_path / "r").code == 0
    assert (tmp_path / "r/tiny/y.labels.txt").read_text() == "cat\ndog\nox\nhen\n"
