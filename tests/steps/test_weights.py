"""Repairs of weights, from a recipe to a bundle: what was done is said, and the result is about as near."""

from __future__ import annotations

from pathlib import Path

import pytest
from nets import conv_net, net, node, normal, samples_for

import edgebig
from edgebig.recipe import Recipe


@pytest.mark.parametrize("target", ["cpu", "agx-orin-64gb"])
@pytest.mark.parametrize(
    ("repair", "said"),
    [
        (("equalize",), "cross-layer equalization of"),
        (("gptq",), "GPTQ of"),
        (("adaround",), "adaptive rounding of"),
        (("mse",), "scales of weights with the least squared error"),
        (("equalize", "gptq", "bias"), "bias"),
    ],
)
def test_each_repair_is_carried_out_and_named(repair: tuple[str, ...], said: str, target: str, tmp_path: Path) -> None:
    path = tmp_path / "conv.onnx"
    graph = conv_net()
    graph.save(path)
    samples = samples_for(graph, 40, batch=1)
    found = {}
    for name, repairs in (("plain", ()), ("repaired", repair)):
        recipe = Recipe.of("test", {"precision": "int8", "repair": repairs})
        bundle = edgebig.compile(path, recipe=recipe, target=target, calibration=samples, out=tmp_path / name)
        found[name] = next(iter(bundle.part().similarity.values()))["cosine"]
        lines = [line for stage in bundle.manifest.stages for line in (*stage.notes, *stage.declined)]
        assert any(said in line for line in lines) == bool(repairs)
    assert 1 - found["repaired"] < 2 * (1 - found["plain"]) + 1e-4


def test_without_samples_weights_are_rounded_to_nearest(tmp_path: Path) -> None:
    path = tmp_path / "conv.onnx"
    conv_net().save(path)
    bundle = edgebig.compile(path, precision="int4", target="l4", out=tmp_path / "b")
    declined = [line for stage in bundle.manifest.stages for line in stage.declined]
    assert any("gptq needs --calib" in line for line in declined) == bundle.part().quantized


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3)])
@pytest.mark.parametrize("repair", ["bias", "gptq", "awq", "mse"])
def test_a_recurrent_layer_is_no_obstacle_to_a_repair(op: str, gates: int, repair: str, tmp_path: Path) -> None:
    """Its biases are those of gates: what it gives says nothing about them."""
    graph = net(
        [node(op, "x w r b", "h", hidden_size=16), node("Squeeze", "h", "s"), node("Gemm", "s head bias", "y")],
        {"x": [6, 1, 12]},
        ["y"],
        {
            "w": normal(1, gates * 16, 12, scale=0.4),
            "r": normal(1, gates * 16, 16, seed=1, scale=0.3),
            "b": normal(1, 2 * gates * 16, seed=2, scale=0.1),
            "head": normal(16, 8, seed=3),
            "bias": normal(8, seed=4),
        },
    )
    graph.save(tmp_path / "m.onnx")
    recipe = Recipe.of("test", {"precision": "int8", "repair": (repair,)})
    bundle = edgebig.compile(
        tmp_path / "m.onnx",
        recipe=recipe,
        target="agx-orin-64gb",
        calibration=samples_for(graph, 40),
        out=tmp_path / "b",
    )
    assert bundle.part().similarity["y"]["cosine"] > 0.999
    assert bundle.part().precision["int8"] > gates * 16 * 28
