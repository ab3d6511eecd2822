"""A quantized model that was of little use says so, in the manifest and in ``inspect``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from nets import Graph, net, node, normal, samples_for

import edgebig
from edgebig.bundle import Bundle
from edgebig.cli.inspect_bundle import facts, lines
from edgebig.quantize import PlanFile, PlannedLayer
from edgebig.recipe import Recipe
from edgebig.steps.pays import latencies, share_quantized


def mlp() -> Graph:
    """x nx64 -> a nx96 -> b nx32."""
    return net(
        [node("MatMul", "x wa", "a"), node("Relu", "a", "r"), node("MatMul", "r wb", "b")],
        {"x": ["n", 64]},
        ["b"],
        {"wa": normal(64, 96, scale=0.1), "wb": normal(96, 32, seed=1, scale=0.1)},
    )


def compiled(graph: Graph, folder: Path, **fields: object) -> tuple[Bundle, str, str]:
    graph.save(folder / "m.onnx")
    data = samples_for(graph, 24)
    recipe = Recipe(**{"precision": "int8", "repair": ()} | fields)
    bundle = edgebig.compile(folder / "m.onnx", recipe=recipe, calibration=data, out=folder / "b")
    stages = bundle.manifest.stages
    return bundle, "\n".join(n for s in stages for n in s.notes), "\n".join(d for s in stages for d in s.declined)


def test_the_share_is_of_what_computes_in_a_quantized_format() -> None:
    formats = {"a": "int8", "b": "fp8", "c": "int8-weights", "d": "float"}
    plan = PlanFile("l4", "int8", tuple(PlannedLayer(n, "MatMul", f) for n, f in formats.items()), {})
    assert share_quantized(plan, {"a": 10, "b": 20, "c": 30, "d": 39, "attention": 1}) == pytest.approx(0.3)
    assert share_quantized(plan, {}) == 0


def test_half_of_the_arithmetic_in_float_is_said(tmp_path: Path) -> None:
    bundle, _, declined = compiled(mlp(), tmp_path, keep_float=("a",))
    # 96 x 32 of 64 x 96 + 96 x 32 multiply-accumulates
    assert "model: only 33% of the arithmetic is quantized" in declined
    assert "left: model: only 33% of the arithmetic is quantized" in "\n".join(lines(facts(bundle.path)))


def test_a_smaller_model_with_most_of_it_quantized_is_no_matter(tmp_path: Path) -> None:
    _, notes, declined = compiled(mlp(), tmp_path)
    assert "of the arithmetic" not in declined and "neither smaller nor faster" not in declined
    assert "times float32's speed" not in notes


def test_a_model_that_is_no_smaller_is_timed(tmp_path: Path) -> None:
    """Weights of one number for each channel: the scales alone are as large."""
    graph = net(
        [node("Conv", "x w", "c", group=64, kernel_shape=[1, 1]), node("Relu", "c", "r"), node("Tanh", "r", "y")],
        {"x": [1, 64, 8, 8]},
        ["y"],
        {"w": normal(64, 1, 1, 1)},
    )
    bundle, notes, declined = compiled(graph, tmp_path)
    assert bundle.part().quantized
    (ratio,) = re.findall(r"model: (\d+\.\d\d) times float32's speed on this processor, measured", notes)
    is_slower = float(ratio) < 1
    said = f"int8 makes the model neither smaller nor faster ({ratio} times float32's speed)"
    assert (said in declined) == is_slower or ratio == "1.00"


def test_latencies_are_of_each_graph_in_turn() -> None:
    graph = mlp()
    sample = {"x": np.zeros((4, 64), np.float32)}
    assert all(0 < seconds < 1 for seconds in latencies([graph, graph], sample))
