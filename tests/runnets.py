"""Models that a runtime must cope with: outputs that depend on data, wrong names of axes, runs that take long."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgebig.spec import Dim

OPSET, IR_VERSION = 19, 9
Value = tuple[str, int, Sequence[Dim]]


def static() -> onnx.ModelProto:
    """``y = 2 x``: float32 2x3."""
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    node = helper.make_node("Mul", ["x", "two"], ["y"])
    return model([node], [("x", TensorProto.FLOAT, [2, 3])], [("y", TensorProto.FLOAT, [2, 3])], [two])


def nonzero() -> onnx.ModelProto:
    """``where``: the places at which ``x`` (float32 4) is not zero, int64 1 x found; ``negative = -x``."""
    nodes = [helper.make_node("NonZero", ["x"], ["where"]), helper.make_node("Neg", ["x"], ["negative"])]
    outputs: list[Value] = [("where", TensorProto.INT64, [1, "found"]), ("negative", TensorProto.FLOAT, [4])]
    return model(nodes, [("x", TensorProto.FLOAT, [4])], outputs)


def misnamed() -> onnx.ModelProto:
    """``y = concat(x, x)``, whose graph says that ``y`` were as long as ``x``."""
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    return model([node], [("x", TensorProto.FLOAT, ["length"])], [("y", TensorProto.FLOAT, ["length"])])


def slow(nodes: int = 400, size: int = 256) -> onnx.ModelProto:
    """``y = x w w w …`` with ``w`` the unit matrix: tens of milliseconds at least, in many nodes."""
    weight = numpy_helper.from_array(np.eye(size, dtype=np.float32), "w")
    names = ["x", *(f"h{number}" for number in range(nodes - 1)), "y"]
    chain = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    value = [size, size]
    return model(chain, [("x", TensorProto.FLOAT, value)], [("y", TensorProto.FLOAT, value)], [weight])


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """A model of those nodes."""

    def info(values: Sequence[Value]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, kind, list(shape)) for name, kind, shape in values]

    graph = helper.make_graph(list(nodes), "net", info(inputs), info(outputs), list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
