"""Recurrent layers: their weights alone become INT8 for TensorRT, and nothing where every run would pay for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from engines import rtx_engine
from nets import Graph, flat_ranges, net, node, normal, op_types, run, samples_for

from edgebig.errors import BuildError
from edgebig.graph.values import constant
from edgebig.quantize import insert_qdq, lower_floats, make_plan, planned_layers
from edgebig.quantize.assignment import Assignment
from edgebig.quantize.formats import INT8
from edgebig.quantize.plan_file import PlanFile
from edgebig.quantize.rules_weights import make as make_weights
from edgebig.recipe import Recipe
from edgebig.target import Target

PARTS = ("quantized", "scale")


def recurrent(op: str, directions: int = 1, **more: int) -> Graph:
    """x [6, 1, 12] -> h [6, directions, 1, 20] -> MatMul -> y [6, directions, 1, 5]."""
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * 20
    direction = "bidirectional" if directions == 2 else "forward"
    return net(
        [node(op, "x w r b", "h", hidden_size=20, direction=direction, **more), node("MatMul", "h head", "y")],
        {"x": [6, 1, 12]},
        ["y"],
        {
            "w": normal(directions, rows, 12, scale=0.4),
            "r": normal(directions, rows, 20, seed=1, scale=0.3),
            "b": normal(directions, 2 * rows, seed=2, scale=0.1),
            "head": normal(20, 5, seed=3),
        },
    )


def planned(graph: Graph, target: str, precision: str = "int8", **more: object):  # type: ignore[no-untyped-def]
    return make_plan(graph, flat_ranges(graph), Target.load(target), Recipe(), precision, **more)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_tensorrt_takes_an_lstm_with_int8_weights(precision: str, directions: int, tmp_path: Path) -> None:
    graph = recurrent("LSTM", directions)
    weights = {name: constant(graph.model.graph.initializers[name]).numpy().copy() for name in "wr"}
    (sample,) = samples_for(graph, 1)
    expected = run(graph, sample)["y"]
    plan = planned(graph, "l4", precision)
    assert [(w.node, w.input, w.format, w.axis) for w in plan.weights[:2]] == [("h", 1, INT8, 1), ("h", 2, INT8, 1)]
    assert set(plan.activations) == {"h"}
    insert_qdq(graph, plan)
    initializers = graph.model.graph.initializers
    for name, weight in weights.items():
        stored, scale = (constant(initializers[f"{name}/h/{part}"]).numpy() for part in ("quantized", "scale"))
        np.testing.assert_allclose(scale, np.abs(weight).max(axis=(0, 2)) / 127, rtol=1e-6)
        error = stored * scale[:, None].astype(np.float64) - weight
        assert (np.abs(error) <= scale[:, None] * 0.5001).all()
    found = run(graph, sample)["y"]
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    lower_floats(graph, ir.DataType.FLOAT16, None)
    graph.save(tmp_path / "g.onnx")
    pytest.importorskip("tensorrt_rtx_bindings")
    assert len(rtx_engine(tmp_path / "g.onnx", "8.9")) > 1000


@pytest.mark.parametrize(
    ("op", "directions", "more", "capability"),
    [
        ("GRU", 1, {"linear_before_reset": 1}, "8.9"),
        ("GRU", 1, {"linear_before_reset": 0}, "8.0"),
        ("GRU", 2, {"linear_before_reset": 1}, "8.6"),
        ("GRU", 1, {"linear_before_reset": 1}, "12.0"),
        ("RNN", 1, {}, "8.9"),
    ],
)
def test_tensorrt_takes_a_gru_with_a_scale_for_each_column(
    op: str, directions: int, more: dict[str, int], capability: str, tmp_path: Path
) -> None:
    graph = recurrent(op, directions, **more)
    weights = {name: constant(graph.model.graph.initializers[name]).numpy().copy() for name in "wr"}
    (sample,) = samples_for(graph, 1)
    expected = run(graph, sample)["y"]
    plan = planned(graph, "l4")
    assert [(w.node, w.input, w.format, w.axis) for w in plan.weights[:2]] == [("h", 1, INT8, 2), ("h", 2, INT8, 2)]
    insert_qdq(graph, plan)
    for name, weight in weights.items():
        stored, scale = (constant(graph.model.graph.initializers[f"{name}/h/{part}"]).numpy() for part in PARTS)
        np.testing.assert_allclose(scale, np.abs(weight).max(axis=(0, 1)) / 127, rtol=1e-6)
        assert (np.abs(stored * scale.astype(np.float64) - weight) <= scale * 0.5001).all()
    found = run(graph, sample)["y"]
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    lower_floats(graph, ir.DataType.FLOAT16, None)
    graph.save(tmp_path / "g.onnx")
    pytest.importorskip("tensorrt_rtx_bindings")
    assert len(rtx_engine(tmp_path / "g.onnx", capability)) > 1000


def test_scales_of_rows_are_what_the_builder_fails_on_in_a_gru(tmp_path: Path) -> None:
    """When this fails, TensorRT-RTX takes a GRU with scales for rows, as an LSTM has them."""
    pytest.importorskip("tensorrt_rtx_bindings")
    graph = recurrent("GRU", linear_before_reset=1)
    plan = planned(graph, "l4")
    plan.weights = [replace(w, axis=1) if w.node == "h" else w for w in plan.weights]
    insert_qdq(graph, plan)
    lower_floats(graph, ir.DataType.FLOAT16, None)
    graph.save(tmp_path / "g.onnx")
    with pytest.raises(BuildError, match="_M_range_check"):
        rtx_engine(tmp_path / "g.onnx", "8.9")


def test_int8_weights_make_the_engine_of_a_gru_smaller(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    size = {}
    for precision in ("fp16", "int8-weights"):
        graph = net(
            [node("GRU", "x w r", "y", hidden_size=512, linear_before_reset=1)],
            {"x": [6, 1, 512]},
            ["y"],
            {"w": normal(1, 1536, 512, scale=0.1), "r": normal(1, 1536, 512, seed=1, scale=0.1)},
        )
        insert_qdq(graph, planned(graph, "l4", precision))
        lower_floats(graph, ir.DataType.FLOAT16, None)
        graph.save(tmp_path / "g.onnx")
        size[precision] = len(rtx_engine(tmp_path / "g.onnx", "8.9"))
    # 1.6 million weights of one byte instead of two
    assert size["fp16"] - size["int8-weights"] > 1_200_000


def test_an_lstm_is_one_layer_of_the_plan_and_comes_back_from_its_file() -> None:
    graph = recurrent("LSTM")
    assert planned_layers(graph, Target.load("l4"), Recipe(), "int8") == ["h", "y"]
    plan = planned(graph, "l4")
    file = PlanFile.of(graph, plan, "l4", "int8")
    assert file.formats() == {"h": "int8-weights", "y": "int8"}
    again = planned(graph, "l4", layers=file.formats())
    assert sorted(again.weights, key=repr) == sorted(plan.weights, key=repr)
    assert again.activations == plan.activations


def test_what_is_left_and_why() -> None:
    plan = planned(recurrent("LSTM"), "cpu")
    assert [w.node for w in plan.weights] == ["y"]
    assert plan.skipped["h"] == "ONNX Runtime would dequantize its weights on every run: twice as slow"
    int4 = make_weights(recurrent("LSTM"), Assignment("int4"), 128)
    assert int4.skipped["h"] == "only matrix products take int4 weights"
    graph = recurrent("LSTM")
    kept = make_plan(graph, flat_ranges(graph), Target.load("l4"), Recipe(keep_float=("h",)), "int8")
    assert kept.skipped == {"h": "kept in float by the recipe (h)"}


def test_computed_weights_are_left() -> None:
    graph = net(
        [node("Add", "w x0", "w2"), node("LSTM", "x w2 r", "y", hidden_size=2)],
        {"x": [3, 1, 4], "x0": [1]},
        ["y"],
        {"w": normal(1, 8, 4), "r": normal(1, 8, 2)},
    )
    assert planned(graph, "l4").skipped == {"y": "its weights are computed, or not float32"}
    assert op_types(graph) == ["Add", "LSTM"]
