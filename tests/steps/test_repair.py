"""Which repairs suit a request, and that a plan of a graph with outliers split off makes the same graph again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nets import Graph, conv_net, net, node, normal, samples_for

import edgebig
from edgebig.errors import RecipeError
from edgebig.recipe import Recipe
from edgebig.request import Request, Shapes
from edgebig.steps.repair import repairs_for


@pytest.mark.parametrize(
    ("target", "asked", "precision", "expected"),
    [
        ("l4", "int8", "int8", ("equalize", "outliers", "smooth")),
        ("l4", "auto", "int8", ("equalize", "outliers", "smooth")),
        ("l4", "fp8", "fp8", ("smooth", "gptq")),
        ("l4", "int4", "int4", ("gptq",)),
        ("l4", "fp16", "fp16", ()),
        ("cpu", "int8", "int8", ("equalize", "smooth")),
        ("cpu", "auto", "int8", ("equalize", "outliers", "smooth")),
        ("cpu", "auto", "fp32", ()),
    ],
)
def test_what_suits_the_format_and_the_target(
    target: str, asked: str, precision: str, expected: tuple[str, ...]
) -> None:
    request = Request.resolve(None, target, None, Shapes(), {"precision": asked})
    assert repairs_for(request, precision, spiked()) == expected
    rounded = (*expected, "adaround") if precision == "int8" else expected
    assert repairs_for(request, precision, conv_net()) == rounded


@pytest.mark.parametrize("asked", [(), ("gptq", "outliers")])
def test_what_was_asked_for_goes_first(asked: tuple[str, ...]) -> None:
    request = Request.resolve(Recipe(precision="int8", repair=asked), "l4", None, Shapes(), {})
    assert repairs_for(request, "int8", conv_net()) == asked


def spiked() -> Graph:
    """x nx192 -> LayerNorm with four huge channels -> MatMul -> Add -> Tanh -> MatMul -> y."""
    gain = np.ones(192, np.float32)
    gain[[5, 50, 100, 150]] = 150
    return net(
        [
            node("LayerNormalization", "x gain", "n"),
            node("MatMul", "n wa", "a"),
            node("Add", "a b", "s"),
            node("Tanh", "s", "t"),
            node("MatMul", "t wb", "y"),
        ],
        {"x": [4, 192]},
        ["y"],
        {"gain": gain, "wa": normal(192, 32, seed=1, scale=0.01), "b": normal(32), "wb": normal(32, 8, seed=2)},
    )


@pytest.mark.parametrize("target", ["cpu", "agx-orin-64gb"])
def test_a_plan_with_split_outliers_makes_the_same_graph_again(target: str, tmp_path: Path) -> None:
    if target != "cpu":
        pytest.importorskip("tensorrt_rtx_bindings")
    graph = spiked()
    graph.save(tmp_path / "net.onnx")
    samples = samples_for(graph, 24)
    recipe = Recipe(precision="int8", repair=("outliers", "smooth"))
    first = edgebig.compile(
        tmp_path / "net.onnx", target=target, recipe=recipe, calibration=samples, out=tmp_path / "first"
    )
    path = first.file("evidence/model.plan.json")
    plan = json.loads(path.read_text(encoding="utf-8"))
    assert plan["repairs"][0] == "outliers: 8 channels of 1 inputs of 1 matrix products are multiplied in float"
    layers = {row["node"]: row for row in plan["layers"]}
    assert {name: row["format"] for name, row in layers.items()} == {"a": "int8", "a/outliers": "float", "y": "int8"}
    assert layers["a/outliers"]["reason"] == "the outlier channels of a, 8 of 192"
    again = edgebig.compile(
        tmp_path / "net.onnx",
        target=target,
        recipe=Recipe(plan=str(path), repair=("outliers", "smooth")),
        calibration=samples,
        out=tmp_path / "again",
    )
    assert again.manifest.files["graphs/model.onnx"] == first.manifest.files["graphs/model.onnx"]
    with pytest.raises(RecipeError, match=r"names the tensor 'n/inliers', which model lacks: .* were outliers: 8 chan"):
        edgebig.compile(
            tmp_path / "net.onnx",
            target=target,
            recipe=Recipe(plan=str(path), repair=("smooth",)),
            calibration=samples,
            out=tmp_path / "other",
        )
