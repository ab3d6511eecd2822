"""The gate: figures of every stage, a budget that stops a compile, and the report of the layers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import Sample, conv_net, model, node, normal, samples_for

import edgebig
from edgebig.bundle import Bundle
from edgebig.errors import AccuracyError
from edgebig.graph import Graph
from edgebig.recipe import Recipe
from edgebig.request import Request, Shapes
from edgebig.source import SourcePart
from edgebig.steps.gate import Comparing
from edgebig.steps.work import PartWork
from edgebig.verify import Golden


def outlier() -> onnx.ModelProto:
    """Three products; the second one reads values of which most vanish beside a few, and its Tanh needs them all."""
    return model(
        [
            node("MatMul", "x a", "first"),
            node("Pow", "first nine", "uneven"),
            node("MatMul", "uneven b", "second"),
            node("Tanh", "second", "small"),
            node("MatMul", "small c", "y"),
        ],
        {"x": ["n", 32]},
        ["y"],
        {
            "a": np.linalg.qr(normal(32, 32))[0].astype(np.float32),
            "nine": np.array(9, np.float32),
            "b": (np.eye(32) * 1000).astype(np.float32),
            "c": np.linalg.qr(normal(32, 32, seed=2))[0].astype(np.float32),
        },
    )


def rows(count: int) -> list[Sample]:
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal((4, 32)).astype(np.float32)} for _ in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(outlier(), tmp_path / "outlier.onnx")
    return tmp_path / "outlier.onnx"


def limited(drop: float, **fields: Any) -> Recipe:
    """A recipe that allows so much loss."""
    return Recipe.of("test", {"max_drop": drop, **fields})


def notes_of(bundle: Bundle) -> str:
    return "\n".join(bundle.manifest.stages[-1].notes)


@pytest.mark.parametrize("target", ["cpu", "agx-orin-64gb"])
def test_beyond_the_budget_the_stage_and_the_layer_are_named(target: str, path: Path, tmp_path: Path) -> None:
    recipe = limited(0.01, precision="int8")
    with pytest.raises(AccuracyError) as caught:
        edgebig.compile(path, target=target, recipe=recipe, calibration=rows(40), out=tmp_path / "b")
    message = str(caught.value)
    assert "model in int8: the output 'y' has a cosine of 0." in message
    assert "at least 0.99000 was asked; most is lost in the stage 'quantize'" in message
    assert "the error jumps first at second (MatMul, " in message
    assert "--keep-float second" in message and "edgebig debug" in message
    assert caught.value.exit_code == 12
    assert os.listdir(tmp_path) == ["outlier.onnx"]


def test_within_the_budget_every_stage_is_compared(tmp_path: Path) -> None:
    graph = conv_net()
    graph.save(tmp_path / "conv.onnx")
    recipe = limited(0.02, precision="int8", keep_original=True)
    data = samples_for(graph, 24)
    bundle = edgebig.compile(tmp_path / "conv.onnx", recipe=recipe, calibration=data, out=tmp_path / "b")
    notes = notes_of(bundle)
    for stage in ("simplified against original", "int8 against simplified", "built against int8"):
        assert f"model: {stage}: cosine " in notes
    assert "int8 against original: cosine 0.99" in notes
    report = json.loads(bundle.file("evidence/model.layers.json").read_text(encoding="utf-8"))
    assert set(report["stages"]) == {"graph", "quantize", "build", "all"}
    assert report["stages"]["all"]["cosine"] == bundle.part().similarity["y"]["cosine"]
    assert report["stages"]["graph"]["sqnr_db"] == "Infinity" or report["stages"]["graph"]["sqnr_db"] > 100
    layers = {row["name"]: row for row in report["layers"]}
    # SmoothQuant may have put a Mul before the last one
    ops = [row["op"] for row in report["layers"] if row["op"] != "Mul"]
    assert ops == ["Conv", "Relu", "MaxPool", "Conv", "Relu", "GlobalAveragePool", "Reshape", "Gemm"]
    assert sum(row["share_of_error"] for row in layers.values()) == pytest.approx(1)
    assert report["time"] == "measured here"
    assert 0.5 < sum(row["share_of_time"] for row in layers.values()) <= 1.0001
    assert layers["conv1"]["macs"] == 8 * 64 * 27 and layers["conv1"]["format"] == "uint8 x int8"
    assert layers["relu"]["own"]["sqnr_db"] == "Infinity" and layers["relu"]["format"] == "float32"
    costly = sorted(layers, key=lambda n: -layers[n]["share_of_error"])[: len(report["costly"])]
    assert 2 <= len(report["costly"]) <= 3 and report["costly"] == costly
    for name in costly:
        assert f"of the error comes from {name} (" in notes


def test_other_devices_have_shares_of_the_arithmetic(tmp_path: Path) -> None:
    graph = conv_net()
    graph.save(tmp_path / "conv.onnx")
    bundle = edgebig.compile(
        tmp_path / "conv.onnx",
        target="agx-orin-64gb",
        precision="int8",
        calibration=samples_for(graph, 24),
        out=tmp_path / "b",
    )
    report = json.loads(bundle.file("evidence/model.layers.json").read_text(encoding="utf-8"))
    assert report["time"] == "multiply-accumulates" and "build" not in report["stages"]
    layers = {row["name"]: row for row in report["layers"]}
    total = 8 * 64 * 27 + 8 * 16 * 72 + 32
    assert layers["conv1"]["share_of_time"] == pytest.approx(8 * 64 * 27 / total)
    assert layers["conv1"]["seconds"] is None and layers["conv1"]["format"] == "int8 x int8"
    assert "int8 x int8" in notes_of(bundle) and "% of the multiply-accumulates" in notes_of(bundle)


def test_without_quantization_there_is_no_layer_report(tmp_path: Path) -> None:
    graph = conv_net()
    graph.save(tmp_path / "conv.onnx")
    bundle = edgebig.compile(tmp_path / "conv.onnx", out=tmp_path / "b")
    assert "evidence/model.layers.json" not in bundle.manifest.files
    assert "simplified against original" in notes_of(bundle) and "built against fp32" in notes_of(bundle)


def test_what_the_comparison_raises_ends_the_build(path: Path, tmp_path: Path) -> None:
    """Engines that are built ahead are compared meanwhile, on a thread of its own."""
    pytest.importorskip("tensorrt_rtx_bindings")
    graph = Graph.load(path)
    part = PartWork(SourcePart("model", graph, path), graph, {}, lowered=graph)
    part.golden = Golden(rows(1), [{"y": np.zeros((4, 31), np.float32)}], "made by hand")
    comparing = Comparing(part, Request.resolve(None, "l4", None, Shapes(), {}))
    comparing.wait()
    with pytest.raises(AccuracyError, match="should have the shape"):
        comparing.check()
    ends: list[str] = []
    with pytest.raises(AccuracyError):
        edgebig.compile(
            path,
            target="l4",
            recipe=limited(1e-9, precision="int8"),
            calibration=rows(20),
            out=tmp_path / "b",
            listener=lambda event: ends.append(event.stage) if event.kind == "end" else None,
        )
    assert "verify" not in ends and not (tmp_path / "b").exists()
