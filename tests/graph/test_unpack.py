"""FP4 weights written out: what ONNX's own reference makes of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import net, node, normal, op_types, run, samples_for
from onnx.reference import ReferenceEvaluator

from edgebig.graph.unpack import runnable, unpack_fp4
from edgebig.quantize import insert_qdq, lower_floats, rules_weights
from edgebig.quantize.assignment import Assignment
from edgebig.quantize.formats import NVFP4


@pytest.mark.parametrize("lowered", [False, True])
def test_as_onnx_defines_it(lowered: bool) -> None:
    graph = net(
        [node("MatMul", "x w1", "h"), node("Relu", "h", "r"), node("Gemm", "r w2", "y", transB=1)],
        {"x": [8, 64]},
        ["y"],
        {"w1": normal(64, 96, seed=1, scale=0.1), "w2": normal(32, 96, seed=2)},
        opset=23,
    )
    insert_qdq(graph, rules_weights.make(graph, Assignment("nvfp4"), None, NVFP4))
    if lowered:
        lower_floats(graph, ir.DataType.FLOAT16, None)
    (sample,) = samples_for(graph, 1)
    (expected,) = ReferenceEvaluator(ir.to_proto(graph.model)).run(["y"], sample)
    # the executor writes them out by itself, in a copy
    found = run(graph, sample)["y"]
    assert np.abs(found - expected).max() < (5e-3 if lowered else 1e-5) * np.abs(expected).max()
    assert op_types(graph).count("DequantizeLinear") == 4
    copy = runnable(graph)
    assert "DequantizeLinear" not in op_types(copy) and runnable(copy) is copy
    assert unpack_fp4(graph.clone().model) == 2
    np.testing.assert_array_equal(run(copy, sample)["y"], found)


def test_a_graph_without_them_is_left_alone() -> None:
    graph = net([node("MatMul", "x w", "y")], {"x": [2, 4]}, ["y"], {"w": normal(4, 4)})
    assert runnable(graph) is graph and unpack_fp4(graph.model) == 0
    assert op_types(graph) == ["MatMul"]
