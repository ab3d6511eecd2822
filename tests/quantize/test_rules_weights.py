"""Which weights are quantized alone, in which blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nets import Graph, net, node, normal, run, samples_for

from edgebig.build import check_parse
from edgebig.quantize import insert_qdq, rules_weights
from edgebig.quantize.assignment import Assignment
from edgebig.quantize.formats import INT4, INT8, NVFP4


def chain() -> Graph:
    """Matrix products with 256, 192, 96, 40 input channels, and one with a weight of three axes."""
    return net(
        [
            node("MatMul", "x w256", "a"),
            node("Gemm", "a w192", "b", transB=1),
            node("MatMul", "b w96", "c"),
            node("MatMul", "c w40", "d"),
            node("MatMul", "d w3", "y"),
        ],
        {"x": [8, 256]},
        ["y"],
        {
            "w256": normal(256, 192),
            "w192": normal(96, 192, seed=1),
            "w96": normal(96, 40, seed=2),
            "w40": normal(40, 24, seed=3),
            "w3": normal(2, 24, 8, seed=4),
        },
        opset=21,
    )


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (128, [("a", 0, 128), ("b", 1, 64), ("c", 0, 32), ("d", 1, None)]),
        (64, [("a", 0, 64), ("b", 1, 64), ("c", 0, 32), ("d", 1, None)]),
        (32, [("a", 0, 32), ("b", 1, 32), ("c", 0, 32), ("d", 1, None)]),
        (None, [("a", 1, None), ("b", 0, None), ("c", 1, None), ("d", 1, None)]),
    ],
)
def test_the_largest_block_that_divides(block, expected, tmp_path: Path) -> None:
    graph = chain()
    plan = rules_weights.make(graph, Assignment("int4"), block, INT4, "mse")
    assert [(w.node, w.axis, w.block) for w in plan.weights] == expected
    assert all(w.clip == "mse" for w in plan.weights)
    assert plan.skipped == {"y": "its weight (2, 24, 8) is not a matrix"}
    insert_qdq(graph, plan)
    graph.save(tmp_path / "g.onnx")
    pytest.importorskip("tensorrt_rtx_bindings")
    check_parse(tmp_path / "g.onnx")


def test_int8_weights_alone_are_near(tmp_path: Path) -> None:
    graph = chain()
    (sample,) = samples_for(graph, 1)
    expected = run(graph, sample)["y"]
    plan = rules_weights.make(graph, Assignment("int8-weights"), None, INT8)
    assert plan.summary() == ("4 weights in int8, per channel",)
    insert_qdq(graph, plan)
    assert np.abs(run(graph, sample)["y"] - expected).max() < 0.03 * np.abs(expected).max()
    graph.save(tmp_path / "g.onnx")
    pytest.importorskip("tensorrt_rtx_bindings")
    check_parse(tmp_path / "g.onnx")


def test_nvfp4_takes_blocks_of_16_or_none() -> None:
    plan = rules_weights.make(chain(), Assignment("nvfp4"), 128, NVFP4)
    assert [(w.node, w.axis, w.block) for w in plan.weights] == [("a", 0, 16), ("b", 1, 16), ("c", 0, 16)]
    assert plan.skipped["d"] == "its weight (40, 24) does not divide into blocks of 16"


def test_layers_of_other_formats_are_left_alone() -> None:
    assignment = Assignment("int4", {"a": "int8-weights", "b": "float"})
    assert [w.node for w in rules_weights.make(chain(), assignment, 128).weights] == ["c", "d"]
    assert [w.node for w in rules_weights.make(chain(), assignment, None, INT8).weights] == ["a"]
