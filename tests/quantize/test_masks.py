"""Mask constants near the smallest float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import attention_net, net, node, normal, ranges_of, run, samples_for
from onnx import numpy_helper

from edgebig.graph.values import constant
from edgebig.quantize import clamp_masks, insert_qdq, lower_floats, make_plan
from edgebig.recipe import Recipe
from edgebig.target import Target


def test_a_mask_becomes_a_number_that_fp16_holds_twice() -> None:
    graph = attention_net(float(np.finfo(np.float32).min))
    assert clamp_masks(graph) == ("mask: 3.4e+38 became 30000",)
    mask = constant(graph.model.graph.initializers["mask"]).numpy()
    assert mask.dtype == np.float32 and sorted(set(mask.ravel().tolist())) == [-30000, 0]
    assert np.isfinite(np.float16(2 * mask)).all()
    assert clamp_masks(graph) == ()


@pytest.mark.parametrize("value", [-np.inf, -1e9, -10000.0])
def test_other_masks_stay(value: float) -> None:
    graph = attention_net(value)
    assert clamp_masks(graph) == ()
    assert constant(graph.model.graph.initializers["mask"]).numpy().min() == np.float32(value)


def test_bounds_become_those_of_fp16() -> None:
    graph = net(
        [node("Clip", "x low high", "c"), node("Max", "c low", "y")],
        {"x": [4]},
        ["y"],
        {"low": np.array(-3.4e38, np.float32), "high": np.array(6, np.float32)},
    )
    assert clamp_masks(graph) == ("low: 3.4e+38 became 65504",)
    assert run(graph, {"x": np.array([-70000, -1, 5, 9], np.float32)})["y"].tolist() == [-65504, -1, 5, 6]


def test_a_fill_is_clamped_too() -> None:
    fill = numpy_helper.from_array(np.array([-3.4e38], np.float32))
    graph = net(
        [node("Shape", "x", "shape"), node("ConstantOfShape", "shape", "fill", value=fill), node("Add", "x fill", "y")],
        {"x": [2, 2]},
        ["y"],
    )
    assert clamp_masks(graph) == ("fill: -3.4e+38 became -30000",)
    assert run(graph, {"x": np.ones((2, 2), np.float32)})["y"].tolist() == [[-29999, -29999]] * 2


@pytest.mark.parametrize("target", ["cpu", "l4"])
@pytest.mark.parametrize("mask", [-3.4e38, -np.inf, -1e9, -10000.0])
def test_a_masked_transformer_survives_int8(mask: float, target: str) -> None:
    graph = attention_net(mask)
    samples = samples_for(graph, 8)
    expected = np.stack([run(graph, s)["y"] for s in samples]).astype(np.float64)
    clamp_masks(graph)
    ranges = ranges_of(graph, samples)
    insert_qdq(graph, make_plan(graph, ranges, Target.load(target), Recipe(), "int8"))
    if target == "l4":
        lower_floats(graph, ir.DataType.FLOAT16, ranges)
    found = np.stack([run(graph, s)["y"] for s in samples])
    assert 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()) > 28


def test_a_row_that_is_masked_whole_stays_finite_in_fp16() -> None:
    mask = np.full((4, 4), -3.4e38, np.float32)
    graph = net(
        [node("Add", "x mask", "a"), node("Add", "a mask", "b"), node("Softmax", "b", "y")],
        {"x": [1, 4, 4]},
        ["y"],
        {"mask": mask},
    )
    clamp_masks(graph)
    lower_floats(graph, ir.DataType.FLOAT16, None)
    found = run(graph, {"x": normal(1, 4, 4)})["y"]
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-3)
