"""What decides a graph's branches."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from textnets import net

from edgebig.graph import Graph
from edgebig.graph.branches import decided_by

BRANCHES = """
    y = If(c) <then_branch = t () => (float[N,4] a) { a = Relu(x) },
               else_branch = e () => (float[N,4] b) { b = Neg(x) }>
"""
BY_RATE = "k = Constant<value = int64 {16000}>() c = Equal(rate, k)"
BY_SHAPE = (
    "s = Shape(x) i = Constant<value = int64 {0}>() n = Gather(s, i) k = Constant<value = int64 {1}>() c = Equal(n, k)"
)
BY_BOTH = (
    "s = Shape(x) i = Constant<value = int64 {0}>() n = Gather(s, i) d = Equal(n, rate) m = Cast<to = 9>(rate) "
    "c = And(d, m)"
)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (BY_RATE, "the value of rate (--freeze rate=VALUE)"),
        (BY_SHAPE, "the shape of x (--shapes)"),
        (BY_BOTH, "the value of rate (--freeze rate=VALUE) and the shape of x (--shapes)"),
    ],
)
def test_inputs_behind_a_condition(condition: str, says: str) -> None:
    model = net("float[N,4] x, int64 rate", "float[N,4] y", condition + BRANCHES)
    assert decided_by(Graph(ir.from_proto(model))) == says


def test_a_graph_without_branches() -> None:
    assert decided_by(Graph(ir.from_proto(net("float[N,4] x", "float[N,4] y", "y = Relu(x)")))) == ""
