"""Q/DQ where ONNX Runtime's CPU kernels want it.

Activations unsigned and asymmetric, weights signed and symmetric per channel. A convolution's output
is quantized too, after its activation function, and its bias is INT32: only then does ONNX Runtime
fuse the whole into QLinearConv. A Gemm's bias is INT32 too, for QGemm. Operators that only move or
combine values (pooling, concatenation, addition) stay in the quantized domain between two quantized
neighbours; before an operator in float they would only round once more. Those that move values share
one scale with what they read, so that they round nothing. Matrix products give float, but for those
with Relu or Clip behind them.
Large embedding tables are stored as INT8 with a scale for each row.
ONNX Runtime documentation, "Quantize ONNX models".
"""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import reduce
from pathlib import Path

import onnx_ir as ir

from edgebig.calibrate.ranges import Range, Ranges
from edgebig.graph import Graph
from edgebig.graph.values import constant, consumers
from edgebig.quantize.assignment import FLOAT, Assignment
from edgebig.quantize.choose import activation, weight
from edgebig.quantize.formats import INT7, INT8, UINT8, Format
from edgebig.quantize.plan import Plan

_COMPUTE = {"Conv", "MatMul", "Gemm"}
_MOVES = {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"}
"""What they give are values that they read."""

_THROUGH = {"AveragePool", "GlobalAveragePool", "Concat", "Add", *_MOVES}
_EMBEDDING_SIZE = 1 << 16
_RECURRENT = {"LSTM", "GRU", "RNN"}
_BIASED = {"Conv", "Gemm"}
_FUSED_ACTIVATIONS = {"Relu", "Clip"}


def weight_format(architecture: str) -> Format:
    """INT8 weights, or 7 bits of them on x86-64 processors that may lack VNNI.

    Without VNNI the product of unsigned and signed bytes is summed in saturating 16 bits, and full
    8-bit weights overflow it (ONNX Runtime documentation, "When and why do I need to try U8U8?").
    """
    machine = platform.machine() if architecture == "native" else architecture
    is_arm = machine in {"aarch64", "arm64"}
    return INT8 if is_arm or (architecture == "native" and _has_vnni()) else INT7


def make(graph: Graph, ranges: Ranges, assignment: Assignment, fmt: Format) -> Plan:
    """The plan for the layers in INT8 on a CPU; others are left alone. ``fmt`` is the weights' format."""
    plan = Plan()
    outputs = {id(v) for v in graph.model.graph.outputs}
    results: set[str] = set()
    quantized: set[int] = set()
    plan.embeddings = embeddings(graph, assignment, plan)
    for node in graph.model.graph:
        if node.domain or node.op_type not in _COMPUTE | _THROUGH | _RECURRENT or assignment.of(node, plan) != "int8":
            continue
        if node.op_type in _RECURRENT:
            plan.skipped[str(node.name)] = "ONNX Runtime would dequantize its weights on every run: twice as slow"
            continue
        through = node.op_type in _THROUGH
        done = (
            _carry_through(node, ranges, plan, outputs)
            if through
            else _quantize_compute(node, ranges, fmt, plan, outputs)
        )
        if done:
            quantized.add(id(node))
            results |= {str(_result(node, outputs).name)} if through or _gives_integers(node, outputs) else set()
    _end_in_float(graph, plan, quantized, outputs)
    _share_scales(graph, plan, ranges, quantized)
    _leave_others_exact(graph, plan, results, quantized)
    return plan


def _end_in_float(graph: Graph, plan: Plan, quantized: set[int], outputs: set[int]) -> None:
    """Leaves in float what leads to no quantized layer, such as the pooling before a classifier's Softmax."""
    for node in reversed(list(graph.model.graph)):
        if id(node) not in quantized or node.op_type not in _THROUGH:
            continue
        result = _result(node, outputs)
        if not any(id(reader) in quantized for reader in consumers(result)):
            quantized.discard(id(node))
            plan.activations.pop(str(result.name), None)


def _share_scales(graph: Graph, plan: Plan, ranges: Ranges, quantized: set[int]) -> None:
    """One scale for the values that an operator only moves, and for what Concat alone reads.

    With scales of their own pooling would run in float (ONNX Runtime takes it for integers only where both are the
    same), and Concat would round a second time what was rounded before it.
    """
    groups: dict[str, list[str]] = {}
    for node in graph.model.graph:
        if id(node) not in quantized or node.op_type not in {*_MOVES, "Concat"}:
            continue
        read = [v for v in node.inputs if v is not None and str(v.name) in plan.activations]
        is_move = node.op_type in _MOVES
        names = [str(v.name) for v in read if is_move or len(consumers(v)) == 1] + [str(node.outputs[0].name)]
        joined = list(dict.fromkeys(other for name in names for other in groups.get(name, [name])))
        groups |= dict.fromkeys(joined, joined)
    for names in {id(group): group for group in groups.values()}.values():
        found = [r for name in names if (r := ranges.get(name)) is not None]
        scale, zero_point = UINT8.scale_and_zero_point(reduce(Range.merge, found))
        for name in names:
            plan.activations[name] = replace(plan.activations[name], scale=scale, zero_point=zero_point)


def _leave_others_exact(graph: Graph, plan: Plan, results: set[str], quantized: set[int]) -> None:
    """Only quantized nodes read the rounded values of a float operator; a residual addition reads the exact ones.

    What a quantized kernel gives exists rounded alone, so that all its readers take that.
    """
    main = graph.model.graph
    for value in [*main.inputs, *(v for node in main for v in node.outputs)]:
        name = str(value.name)
        readers = consumers(value)
        if name in plan.activations and name not in results and any(id(n) not in quantized for n in readers):
            names = tuple(str(n.name) for n in main if id(n) in quantized and any(v is value for v in n.inputs))
            plan.activations[name] = replace(plan.activations[name], readers=names)


def embeddings(graph: Graph, assignment: Assignment, plan: Plan) -> list[str]:
    """Names of the large embedding tables' nodes that do not stay float, which is noted in the plan."""
    found = [node for node in graph.model.graph if _is_embedding(node) and assignment.of(node, plan) != FLOAT]
    return [str(node.name) for node in found]


def _is_embedding(node: ir.Node) -> bool:
    """A table of rows large enough for its bytes to count."""
    table = constant(node.inputs[0]) if node.op_type == "Gather" and not node.domain else None
    return (
        table is not None
        and table.dtype == ir.DataType.FLOAT
        and len(table.shape) == 2
        and table.size >= _EMBEDDING_SIZE
        and node.attributes.get_int("axis", 0) == 0
    )


def _quantize_compute(node: ir.Node, ranges: Ranges, fmt: Format, plan: Plan, outputs: set[int]) -> bool:
    """Quantizes a convolution or matrix product; whether it could."""
    chosen = weight(node, fmt)
    values = [node.inputs[0]]
    if _gives_integers(node, outputs):
        values.append(_result(node, outputs))
    reasons = [chosen] if isinstance(chosen, str) else []
    if node.op_type == "Gemm" and not _is_plain_gemm(node):
        reasons.append("its alpha, beta or transA has no quantized kernel")
    if node.op_type == "Gemm" and not _has_plain_bias(node):
        reasons.append("its bias is not a vector of constants, so that no quantized kernel takes it")
    if len(values) > 1 and id(values[-1]) in outputs:
        reasons.append("its output is the model's output")
    reasons += [why for why in (_obstacle(v, ranges) for v in values) if why is not None]
    if reasons or isinstance(chosen, str):
        plan.skipped[str(node.name)] = reasons[0]
        return False
    for value in values:
        _quantize(value, ranges, plan)
    plan.weights.append(chosen)
    if node.op_type in _BIASED and len(node.inputs) > 2 and constant(node.inputs[2]) is not None:
        plan.integer_biases.append(str(node.name))
    return True


def _carry_through(node: ir.Node, ranges: Ranges, plan: Plan, outputs: set[int]) -> bool:
    """Keeps an operator in the quantized domain if all that it reads is quantized already; whether it could."""
    floats = [v for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT]
    result = _result(node, outputs)
    if id(result) in outputs or not floats or any(v.name not in plan.activations for v in floats):
        return False
    if node.op_type == "MaxPool" and len(node.outputs) > 1:
        return False
    obstacle = _obstacle(result, ranges)
    if obstacle is not None:
        plan.skipped[str(node.name)] = obstacle
        return False
    _quantize(result, ranges, plan)
    return True


def _result(node: ir.Node, outputs: set[int]) -> ir.Value:
    """The value that a fused kernel gives: of a layer or an addition after Relu or Clip, where only that reads it."""
    value = node.outputs[0]
    if node.op_type in _THROUGH and node.op_type != "Add":
        return value
    readers = consumers(value)
    if len(readers) == 1 and id(value) not in outputs and readers[0].op_type in _FUSED_ACTIVATIONS:
        return readers[0].outputs[0]
    return value


def _gives_integers(node: ir.Node, outputs: set[int]) -> bool:
    """Whether the kernel's result must be quantized: a convolution's, and of a product with Relu or Clip behind it.

    ONNX Runtime would else dequantize what such a product reads and multiply floats, four times slower.
    """
    return node.op_type == "Conv" or _result(node, outputs) is not node.outputs[0]


def _obstacle(value: ir.Value | None, ranges: Ranges) -> str | None:
    """Why a value cannot get a Q/DQ pair; ``None`` where it can."""
    if value is None or constant(value) is not None:
        return "its first input is a constant"
    chosen = activation(str(value.name), ranges, UINT8)
    return chosen if isinstance(chosen, str) else None


def _quantize(value: ir.Value | None, ranges: Ranges, plan: Plan) -> None:
    """Gives a value a Q/DQ pair for all its readers, once."""
    if value is not None and value.name not in plan.activations:
        chosen = activation(str(value.name), ranges, UINT8)
        if not isinstance(chosen, str):
            plan.activations[str(value.name)] = chosen


def _is_plain_gemm(node: ir.Node) -> bool:
    get = node.attributes.get_float
    return get("alpha", 1.0) == 1.0 and get("beta", 1.0) == 1.0 and node.attributes.get_int("transA", 0) == 0


def _has_plain_bias(node: ir.Node) -> bool:
    """No bias, or one that becomes INT32: with a float one ONNX Runtime dequantizes and multiplies floats."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    weights, tensor = constant(node.inputs[1]), constant(bias)
    if bias is None or weights is None:
        return True
    channels = int(weights.shape.numpy()[0 if node.attributes.get_int("transB", 0) else 1])
    return tensor is not None and tuple(tensor.shape.numpy()) == (channels,) and tensor.dtype == ir.DataType.FLOAT


def _has_vnni() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags
