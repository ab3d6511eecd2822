"""A compile for a DLA: its sizes, its evidence, and what inspect and the preflight say of it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import tiny
from nets import conv_net, samples_for

import edgebig as package
from edgebig.bundle import Bundle
from edgebig.compatibility import Machine
from edgebig.device.preflight import dla_lines, preflight
from edgebig.errors import UsageError
from edgebig.recipe import Recipe

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

ORIN = Machine(tensorrt="11.4.1", capability="8.7", device="Jetson AGX Orin", is_jetson=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolutional net in INT8 and an MLP in FP16, for DLA core 1 of an AGX Orin."""
    folder = tmp_path_factory.mktemp("dla")
    graph = conv_net()
    graph.save(folder / "conv.onnx")
    onnx.save(tiny.mlp(), folder / "mlp.onnx")
    build = {"dla_core": 1, "gpu_fallback": False}
    int8 = Recipe.of("the request", {"target": "agx-orin-64gb", "precision": "int8", "build": build})
    package.compile(folder / "conv.onnx", recipe=int8, calibration=samples_for(graph, 8), out=folder / "int8")
    fp16 = Recipe.of("the request", {"target": "agx-orin-64gb", "precision": "fp16", "build": {"dla_core": 1}})
    package.compile(folder / "mlp.onnx", recipe=fp16, out=folder / "fp16")
    package.compile(folder / "mlp.onnx", target="agx-orin-64gb", precision="fp16", out=folder / "plain")
    return folder


def test_sizes_are_fixed_and_the_evidence_names_what_the_gpu_runs(folder: Path) -> None:
    bundle = Bundle.open(folder / "fp16")
    assert bundle.part().profiles == {"x": {"min": [1, 8], "opt": [1, 8], "max": [1, 8]}}
    facts = json.loads((folder / "fp16/evidence/model.dla.json").read_text())
    assert (facts["core"], facts["gpu_fallback"], facts["layers"]) == (1, True, 5)
    assert sorted(row["op"] for row in facts["on_gpu"]) == ["Cast", "Cast", "Relu"]
    declined = [line for stage in bundle.manifest.stages for line in stage.declined]
    assert "model: a DLA takes fixed sizes: x is 1x8 (--shapes names another one)" in declined
    assert "evidence/model.dla.json" not in Bundle.open(folder / "plain").manifest.files


def test_a_range_that_was_asked_for_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(_yaml(tmp_path, "precision: fp16\ntarget: agx-orin-64gb\nbuild: {dla_core: 0}\n"))
    with pytest.raises(UsageError, match="a DLA takes fixed sizes, and x was given a range: give its one size with"):
        package.compile(
            folder / "mlp.onnx",
            recipe=recipe,
            min_shapes="x:1x8",
            opt_shapes="x:2x8",
            max_shapes="x:4x8",
            out=tmp_path / "b",
        )


def test_without_the_gpu_the_node_that_will_fail_is_named(folder: Path) -> None:
    notes = Bundle.open(folder / "int8").manifest.stages[4]
    assert any("INT8 on a DLA needs TensorRT 11.4.1" in line for line in notes.notes)
    facts = json.loads((folder / "int8/evidence/model.dla.json").read_text())
    assert facts["gpu_fallback"] is False
    assert any("--no-gpu-fallback: the device's builder is likely to refuse" in line for line in notes.declined)


def test_the_preflight_knows_the_version_the_core_and_the_layers(folder: Path) -> None:
    bundle = Bundle.open(folder / "int8")
    lines = dla_lines(bundle, "model", ORIN, 1)
    assert lines[0].startswith("the DLA takes ") and not any("TensorRT" in line for line in lines)
    assert "has no DLA: TensorRT up to 10.7 (JetPack 6)" in _first(bundle, "10.16.1")
    assert _first(bundle, "10.3.0").startswith("TensorRT 10.3's DLA takes no Q/DQ pairs")
    assert _first(Bundle.open(folder / "fp16"), "10.3.0").startswith("the DLA takes 2 of 5 layers")
    assert dla_lines(bundle, "model", ORIN, 2)[0].startswith(
        "DLA core 2 was asked for and this machine has 2 DLA cores"
    )
    plain = Bundle.open(folder / "plain")
    assert dla_lines(plain, "model", ORIN, 0)[-1].startswith("compiled without --dla-core")
    assert any("the DLA takes" in line for line in preflight(bundle, "model", ORIN, dla=1).lines("b"))


def _first(bundle: Bundle, version: str) -> str:
    machine = Machine(tensorrt=version, capability="8.7", device="Jetson AGX Orin", is_jetson=True)
    return dla_lines(bundle, "model", machine, 1)[0]


def _yaml(folder: Path, text: str) -> Path:
    (folder / "own.yaml").write_text(text)
    return folder / "own.yaml"
