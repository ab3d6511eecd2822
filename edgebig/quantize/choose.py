"""What the rules of all targets share: which node can be quantized, and how its weight is."""

from __future__ import annotations

import onnx_ir as ir

from edgebig.calibrate.ranges import Ranges
from edgebig.graph.values import constant
from edgebig.quantize.formats import Format
from edgebig.quantize.plan import ActivationChoice, WeightChoice

_ABSURD = 1e30
"""A range beyond it comes from a mask's constant near the smallest float32, not from data."""


def activation(name: str, ranges: Ranges, fmt: Format) -> ActivationChoice | str:
    """The Q/DQ pair of an activation, or why it gets none."""
    found = ranges.get(name)
    if found is None:
        return f"the range of {name} is not known"
    if found.magnitude > _ABSURD:
        return f"{name} reaches {found.magnitude:.1e}, as a mask does"
    if found.magnitude == 0:
        return f"{name} was zero on every sample"
    scale, zero_point = fmt.scale_and_zero_point(found)
    return ActivationChoice(fmt, scale, zero_point)


def weight(node: ir.Node, fmt: Format) -> WeightChoice | str:
    """How the weight of a convolution or matrix product is quantized, or why it is not."""
    value = node.inputs[1]
    tensor = constant(value)
    if tensor is None:
        return "its second input is computed, not a weight"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight is {tensor.dtype.name}"
    return WeightChoice(str(node.name), 1, fmt, _channel_axis(node, len(tensor.shape)))


def _channel_axis(node: ir.Node, rank: int) -> int | None:
    """The axis of the output channels in a weight; ``None`` where scales by channel are not defined."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        group = node.attributes.get_int("group", 1)
        return 1 if group == 1 else None
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 1 if rank == 2 else None
