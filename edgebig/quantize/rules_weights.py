"""Weight-only quantization: weights of matrix products by block or channel, of recurrent layers by row or column."""

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


_RECURRENT_WEIGHTS = (1, 2)
"""Inputs of a recurrent layer: W [directions, gates * hidden, input] and R [directions, gates * hidden, hidden]."""

_RECURRENT = {"LSTM": 1, "GRU": 2, "RNN": 2}
"""Axis of the scales: rows where that builds. TensorRT takes a GRU's weights apart by gates; TensorRT-RTX 1.7.1 fails
to build it with scales along that axis, or with one for all ("vector::_M_range_check")."""


def make(
    graph: Graph,
    assignment: Assignment,
    block: int | None,
    fmt: Format = INT4,
    clip: ScaleMethod = "max",
) -> Plan:
    """The weights of matrix products and, in INT8, of recurrent layers in ``fmt``, rounded to nearest unless otherwise.

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
        if node.domain or node.op_type not in {"MatMul", "Gemm", *_RECURRENT}:
            continue
        if assignment.of(node, plan) != wanted:
            continue
        if node.op_type in {"MatMul", "Gemm"}:
            chosen = _choose(node, block, fmt, clip)
            choices = chosen if isinstance(chosen, str) else [chosen]
        else:
            choices = recurrent(node) if fmt == INT8 else f"only matrix products take {fmt.name} weights"
        if isinstance(choices, str):
            plan.skipped[str(node.name)] = choices
        else:
            plan.weights += choices
    return plan


def recurrent(node: ir.Node) -> list[WeightChoice] | str:
    """How the two weights of a recurrent layer become INT8; or why they do not.

    A scale for each row of every gate of an LSTM, for each column of a GRU or RNN. Both directions share the scales,
    since DequantizeLinear takes one axis. What TensorRT-RTX 1.7.1 builds for 512 inputs and as many units: an LSTM of
    3.1 MB, with FP16 weights 5.0 MB; a GRU of 2.5 MB instead of 4.0 MB, an RNN of 1.1 MB instead of 1.5 MB.
    """
    tensors = [constant(node.inputs[i]) for i in _RECURRENT_WEIGHTS]
    if any(t is None or t.dtype != ir.DataType.FLOAT for t in tensors):
        return "its weights are computed, or not float32"
    return [WeightChoice(str(node.name), i, INT8, _RECURRENT[node.op_type]) for i in _RECURRENT_WEIGHTS]


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
