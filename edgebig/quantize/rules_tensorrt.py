"""Q/DQ where TensorRT wants it.

Symmetric; per tensor for activations, per channel for weights; on every input of convolutions and
matrix products and on none of their outputs; biases stay float; the other input of a residual
addition after a convolution is quantized too, so that the addition fuses into it. NVIDIA TensorRT
documentation, "Working with Quantized Types", section "Q/DQ Placement Recommendations".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from edgebig.calibrate.ranges import Ranges
from edgebig.graph import Graph
from edgebig.graph.values import constant, consumers
from edgebig.quantize.choose import activation, is_kept, weight
from edgebig.quantize.formats import FP8, Format
from edgebig.quantize.plan import Plan

_COMPUTE = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
_NOT_IN_FP8 = {"ConvTranspose"}


def make(graph: Graph, ranges: Ranges, keep_float: Sequence[str], fmt: Format) -> Plan:
    """The plan for INT8 or FP8 on TensorRT."""
    plan = Plan()
    readers: dict[str, list[str]] = defaultdict(list)
    for node in graph.model.graph:
        if node.op_type not in _COMPUTE or node.domain or is_kept(node, keep_float, plan):
            continue
        if fmt is FP8 and node.op_type in _NOT_IN_FP8:
            plan.skipped.append(f"{node.name}: TensorRT has no FP8 {node.op_type}")
            continue
        _quantize_inputs(node, ranges, fmt, plan, readers)
    quantized = {w.node for w in plan.weights}
    for node in graph.model.graph:
        if node.op_type == "Add" and not node.domain:
            _quantize_skip(node, ranges, fmt, quantized, plan, readers)
    for name, nodes in readers.items():
        plan.activations[name] = replace(plan.activations[name], readers=tuple(nodes))
    return plan


def _quantize_inputs(node: ir.Node, ranges: Ranges, fmt: Format, plan: Plan, readers: dict[str, list[str]]) -> None:
    chosen = weight(node, fmt)
    if isinstance(chosen, str):
        plan.skipped.append(f"{node.name}: {chosen}")
        return
    reason = _read_quantized(node, node.inputs[0], ranges, fmt, plan, readers)
    if reason is not None:
        plan.skipped.append(f"{node.name}: {reason}")
        return
    plan.weights.append(chosen)


def _quantize_skip(
    node: ir.Node, ranges: Ranges, fmt: Format, quantized: set[str], plan: Plan, readers: dict[str, list[str]]
) -> None:
    """Quantizes the input of a residual addition that does not come from the convolution it fuses into."""
    if len(node.inputs) != 2 or any(constant(v) is not None for v in node.inputs):
        return
    from_conv = [_is_conv_output(v, quantized) for v in node.inputs]
    if not any(from_conv):
        return
    skip = node.inputs[0] if from_conv[1] else node.inputs[1]
    if skip is not None and skip is not node.inputs[1 if from_conv[1] else 0]:
        reason = _read_quantized(node, skip, ranges, fmt, plan, readers)
        if reason is not None:
            plan.skipped.append(f"{node.name}: residual input: {reason}")


def _is_conv_output(value: ir.Value | None, quantized: set[str]) -> bool:
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
    readers[name].append(str(node.name))
    return None
