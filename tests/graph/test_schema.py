"""Questions that operators' schemas answer."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from textnets import as_graph, net, normal

from edgebig.graph.schema import accepts, schema_of

CONV = ("float[1,2,4,4] x", "float[1,3,4,4] y", "y = Conv<kernel_shape=[1,1]>(x, w)", {"w": normal(3, 2, 1, 1)})


def node(body: str, opset: int = 19, inputs: str = "float[2,3] x", outputs: str = "float[M,N] y") -> ir.Node:
    return as_graph(net(inputs, outputs, body, opset=opset, check=False)).model.graph[-1]


@pytest.mark.parametrize(
    ("opset", "dtype", "allowed"),
    [(11, "FLOAT16", True), (11, "BFLOAT16", False), (22, "BFLOAT16", True), (19, "INT8", False), (19, "DOUBLE", True)],
)
def test_a_convolutions_types_depend_on_the_opset(opset: int, dtype: str, allowed: bool) -> None:
    conv = as_graph(net(*CONV, opset=opset)).model.graph[0]
    assert accepts(conv, 0, ir.DataType[dtype]) is allowed
    schema = schema_of(conv)
    assert schema is not None and schema.since_version <= opset


def test_each_input_has_types_of_its_own() -> None:
    resize = node("e = Constant<value = float[0] {}>() s = Constant<value = float[2] {1, 2}>() y = Resize(x, e, s)")
    assert [accepts(resize, i, ir.DataType.FLOAT16) for i in range(4)] == [True, True, False, False]
    gather = node("i = Constant<value = int64[1] {0}>() y = Gather(x, i)")
    assert [accepts(gather, i, ir.DataType.INT64) for i in range(2)] == [True, True]
    assert [accepts(gather, i, ir.DataType.FLOAT) for i in range(2)] == [True, False]
    quantize = node("s = Constant<value = float {0.5}>() z = Constant<value = int8 {0}>() y = QuantizeLinear(x, s, z)")
    assert accepts(quantize, 2, ir.DataType.FLOAT8E4M3FN) and not accepts(quantize, 2, ir.DataType.FLOAT16)


def test_the_last_formal_input_stands_for_all_that_follow() -> None:
    concat = node("y = Concat<axis = 0>(x, x, x)")
    assert [accepts(concat, i, ir.DataType.BFLOAT16) for i in range(3)] == [True] * 3


def test_unknown_operators_and_other_domains_accept_nothing() -> None:
    for unknown in (node("y = NoSuchOperator(x)"), node("y = com.microsoft.Gelu(x)")):
        assert schema_of(unknown) is None
        assert not accepts(unknown, 0, ir.DataType.FLOAT)


def test_an_operator_without_inputs_accepts_nothing() -> None:
    assert not accepts(node("y = RandomNormal<shape = [2, 3]>()"), 0, ir.DataType.FLOAT)


def test_an_operator_newer_than_the_graph_is_unknown() -> None:
    assert schema_of(node("y = Gelu(x)", opset=19)) is None
    assert schema_of(node("y = Gelu(x)", opset=20)) is not None
