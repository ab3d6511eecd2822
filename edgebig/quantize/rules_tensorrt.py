"""Q/DQ where TensorRT wants it.

Symmetric; per tensor for activations, per channel for weights; on every input of convolutions and
matrix products and on none of their outputs; biases stay float; the other input of a residual
addition after a convolution is quantized too, so that the addition fuses into it. An LSTM's weights
are INT8 and its arithmetic is not: TensorRT has no recurrent layer in INT8 or FP8. NVIDIA TensorRT
documentation, "Working with Quantized Types", section "Q/DQ Placement Recommendations".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from edgebig.calibrate.ranges import Ranges
from edgebig.graph import Graph
from edgebig.graph.values import constant, consumers
from edgebig.quantize.assignment import Assignment
from edgebig.quantize.choose import activation, weight
from edgebig.quantize.formats import FP8, INT8, Format
from edgebig.quantize.plan import Plan
from edgebig.quantize.rules_weights import recurrent

_COMPUTE = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
_NOT_IN_FP8 = {"ConvTranspose"}
_RECURRENT = {"LSTM", "GRU", "RNN"}


_FORMATS = {"int8": INT8, "fp8": FP8}


def make(graph: Graph, ranges: Ranges, assignment: Assignment) -> Plan:
    """The plan for the layers in INT8 and FP8 on TensorRT; others are left alone."""
    plan = Plan()
    readers: dict[str, list[str]] = defaultdict(list)
    for node in graph.model.graph:
        if node.op_type not in _COMPUTE | _RECURRENT or node.domain:
            continue
        fmt = _FORMATS.get(assignment.of(node, plan))
        if fmt is None:
            continue
        if node.op_type in _RECURRENT:
            _quantize_recurrent(node, plan)
            continue
        if fmt is FP8 and node.op_type in _NOT_IN_FP8:
            plan.skipped[str(node.name)] = f"TensorRT has no FP8 {node.op_type}"
            continue
        _quantize_inputs(node, ranges, fmt, plan, readers)
    quantized = {w.node: w.format for w in plan.weights}
    for node in graph.model.graph:
        if node.op_type == "Add" and not node.domain:
            _quantize_skip(node, ranges, quantized, plan, readers)
    for name, nodes in readers.items():
        plan.activations[name] = replace(plan.activations[name], readers=tuple(nodes))
    return plan


def _quantize_recurrent(node: ir.Node, plan: Plan) -> None:
    choices = recurrent(node)
    if isinstance(choices, str):
        plan.skipped[str(node.name)] = choices
    else:
        plan.weights += choices


def _quantize_inputs(node: ir.Node, ranges: Ranges, fmt: Format, plan: Plan, readers: dict[str, list[str]]) -> None:
    chosen = weight(node, fmt)
    if isinstance(chosen, str):
        plan.skipped[str(node.name)] = chosen
        return
    reason = _read_quantized(node, node.inputs[0], ranges, fmt, plan, readers)
    if reason is not None:
        plan.skipped[str(node.name)] = reason
        return
    plan.weights.append(chosen)


def _quantize_skip(
    node: ir.Node, ranges: Ranges, quantized: Mapping[str, Format], plan: Plan, readers: dict[str, list[str]]
) -> None:
    """Quantizes the input of a residual addition that does not come from the convolution it fuses into."""
    if len(node.inputs) != 2 or any(constant(v) is not None for v in node.inputs):
        return
    from_conv = [_is_conv_output(v, quantized) for v in node.inputs]
    if not any(from_conv):
        return
    skip = node.inputs[0] if from_conv[1] else node.inputs[1]
    other = node.inputs[1 if from_conv[1] else 0]
    producer = other.producer() if other is not None else None
    if skip is not None and skip is not other and producer is not None:
        reason = _read_quantized(node, skip, ranges, quantized[str(producer.name)], plan, readers)
        if reason is not None:
            plan.skipped[str(node.name)] = f"residual input: {reason}"


def _is_conv_output(value: ir.Value | None, quantized: Mapping[str, Format]) -> bool:
    producer = value.producer() if value is not None else None
    return (
        producer is not None
        and producer.op_type in {"Conv", "ConvTranspose"}
        and producer.name in quantized
        and value is not None
        and len(consumers(value)) == 1
    )


def _read_quantized(
    node: ir.Node, value: ir.Value | None, ranges: Ranges, fmt: Format, plan: Plan, readers: dict[str, list[str]]
) -> str | None:
    """Gives ``node`` the dequantized ``value``; returns why it cannot."""
    if value is None or constant(value) is not None:
        return "its first input is a constant"
    name = str(value.name)
    if name not in plan.activations:
        chosen = activation(name, ranges, fmt)
        if isinstance(chosen, str):
            return chosen
        plan.activations[name] = chosen
    elif plan.activations[name].format != fmt:
        return f"{name} is in {plan.activations[name].format.name} for another layer already"
    readers[name].append(str(node.name))
    return None
