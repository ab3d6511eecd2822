"""FP16 tensors are quantized by rounding, whatever ONNX Runtime does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import op_types, run

from edgebig.graph import Graph, rounding

X = np.array([0.75, 1.5, 2.5, 9.7, -0.75, 200], np.float32)


def pairs(kind: type[np.generic] | np.dtype[np.generic]) -> Graph:
    """``y = dequantize(quantize(x))`` in FP16 at a scale of 1."""
    values = [
        ir.Value(name=name, const_value=ir.tensor(array, name=name))
        for name, array in (("scale", np.array(1, np.float16)), ("zero", np.array(0, kind)))
    ]
    x = ir.Value(name="x", shape=ir.Shape([6]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes = [ir.node("Cast", [x], attributes={"to": ir.DataType.FLOAT16})]
    for op in ("QuantizeLinear", "DequantizeLinear"):
        nodes.append(ir.node(op, [nodes[-1].outputs[0], *values]))
    nodes.append(ir.node("Cast", [nodes[-1].outputs[0]], attributes={"to": ir.DataType.FLOAT}))
    y = nodes[-1].outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    made = ir.Graph([x], [y], nodes=nodes, initializers=values, opset_imports={"": 19}, name="pairs")
    return Graph(ir.Model(made, ir_version=9), "pairs")


def test_the_executor_rounds_half_to_even() -> None:
    assert run(pairs(np.int8), {"x": X})["y"].tolist() == [1, 2, 2, 10, -1, 127]
    assert run(pairs(np.uint8), {"x": X})["y"].tolist() == [1, 2, 2, 10, 0, 200]


def test_a_copy_computes_in_float32_where_the_kernel_cuts_off(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = pairs(np.int8)
    monkeypatch.setattr(rounding, "cuts_off", lambda: False)
    assert rounding.rounded(graph) is graph
    monkeypatch.setattr(rounding, "cuts_off", lambda: True)
    copy = rounding.rounded(graph)
    assert op_types(graph).count("Cast") == 2 and op_types(copy).count("Cast") == 4
    assert run(copy, {"x": X})["y"].tolist() == [1, 2, 2, 10, -1, 127]
    assert rounding.rounded(copy) is copy


def test_other_formats_are_left_alone() -> None:
    eighth = pairs(ir.DataType.FLOAT8E4M3FN.numpy())
    assert rounding.widen(eighth.model) == 0
    assert op_types(eighth).count("Cast") == 2
