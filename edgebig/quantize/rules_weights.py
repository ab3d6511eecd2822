"""Weight-only quantization: matrix products' weights by block or channel, activations left in float."""

from __future__ import annotations

import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.quantize.assignment import Assignment
from edgebig.quantize.choose import weight
from edgebig.quantize.formats import INT4, INT8, NVFP4, NVFP4_BLOCK, Format, ScaleMethod
from edgebig.quantize.plan import Plan, WeightChoice

BLOCKS = (128, 64, 32)
"""Lengths of blocks, the preferred one first."""

_NAMES = {INT4.name: "int4", INT8.name: "int8-weights", NVFP4.name: "nvfp4"}
"""What an assignment calls the formats."""


def make(
    graph: Graph,
    assignment: Assignment,
    block: int | None,
    fmt: Format = INT4,
    clip: ScaleMethod = "max",
) -> Plan:
    """The weights of matrix products in ``fmt``, rounded to nearest unless they are rounded otherwise.

    Blocks lie along the input channels, which is the second-last or the last axis of a 2-D weight:
    the two that TensorRT takes. Where ``block`` does not divide them, the largest smaller one of 128,
    64 and 32 that does is taken, and a scale for each output channel where none does.

    Args:
        graph: whose nodes have unique names.
        assignment: layers in ``int4`` (``int8-weights`` and ``nvfp4`` for those) are taken, others left alone.
        block: elements that share a scale; ``None``: a scale for each output channel.
        fmt: ``INT4``, ``INT8`` or ``NVFP4``, whose blocks have 16 elements whatever ``block`` says.
        clip: how scales are made.
    """
    plan = Plan()
    wanted = _NAMES[fmt.name]
    for node in graph.model.graph:
        if node.op_type not in {"MatMul", "Gemm"} or node.domain or assignment.of(node, plan) != wanted:
            continue
        chosen = _choose(node, block, fmt, clip)
        if isinstance(chosen, str):
            plan.skipped[str(node.name)] = chosen
        else:
            plan.weights.append(chosen)
    return plan


def _choose(node: ir.Node, block: int | None, fmt: Format, clip: ScaleMethod) -> WeightChoice | str:
    chosen, tensor = weight(node, fmt), constant(node.inputs[1])
    if isinstance(chosen, str):
        return chosen
    shape = tuple(tensor.shape.numpy()) if tensor is not None else ()
    if chosen.axis is None or len(shape) != 2:
        return f"its weight {shape} is not a matrix"
    inputs = 1 - chosen.axis
    if fmt == NVFP4:
        if shape[inputs] % NVFP4_BLOCK:
            return f"its weight {shape} does not divide into blocks of {NVFP4_BLOCK}"
        return WeightChoice(chosen.node, chosen.input, fmt, inputs, NVFP4_BLOCK, clip)
    dividing = [b for b in (block, *BLOCKS) if b is not None and block is not None and b <= block]
    found = next((b for b in dividing if shape[inputs] % b == 0), None)
    if found is None:
        return WeightChoice(chosen.node, chosen.input, fmt, chosen.axis, clip=clip)
    return WeightChoice(chosen.node, chosen.input, fmt, inputs, found, clip)
