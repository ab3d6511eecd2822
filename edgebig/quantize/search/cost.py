"""What quantizing a layer saves: measured on this processor, or from a roofline of the target's figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.calibrate.ranges import Range, Ranges
from edgebig.graph import Executor, Graph
from edgebig.graph.values import constant
from edgebig.graph.work import Shape, Shapes, macs, traffic
from edgebig.quantize.insert import insert_qdq
from edgebig.quantize.rules import make_plan
from edgebig.recipe import Recipe
from edgebig.target import Target

Array = np.ndarray[Any, Any]

_RUNS = 15
_SECONDS = 0.2
_LEAST = 1e-9
_FP16 = 2.0
_BYTES = {"int8": 1.0, "fp8": 1.0, "int4": 0.5, "int8-weights": 1.0, "nvfp4": 0.5 + 1 / 16}
"""Of a weight in each format; NVFP4 has a scale of one byte for each block of 16."""

_WEIGHTS_ALONE = {"int4", "int8-weights", "nvfp4"}
_RECURRENT = {"LSTM", "GRU", "RNN"}


def measured_gains(graph: Graph, layers: Sequence[str], shapes: Shapes, target: Target) -> dict[str, float]:
    """Seconds that INT8 saves in each layer on this processor, 1e-9 where it saves nothing.

    Each kind of layer (operator, attributes, shapes of input and weight) is timed once by itself: float32
    against INT8 with the Q/DQ pairs of the target's rules, the median of some runs, in turn.
    """
    nodes = {str(node.name): node for node in graph.model.graph}
    known: dict[str, float] = {}
    gains = {}
    for name in layers:
        node = nodes[name]
        ends = [shapes.get(str(v.name)) if v is not None else None for v in (*node.inputs[:2], node.outputs[0])]
        kind = f"{node.op_type} {constant(node.inputs[1]) is None} {ends} {dict(node.attributes)}"
        if kind not in known:
            fits = None not in ends and constant(node.inputs[1]) is not None
            known[kind] = _timed(graph, node, ends[0] or (), ends[2] or (), target) if fits else _LEAST
        gains[name] = known[kind]
    return gains


def roofline_gains(
    graph: Graph, layers: Sequence[str], shapes: Shapes, target: Target, formats: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Seconds that each format saves over FP16 in each layer, by layer and format.

    A layer takes the longer of its arithmetic at the target's peak rate and its traffic at the target's
    bandwidth (Williams et al. 2009, "Roofline: An Insightful Visual Performance Model"). No device reaches
    either, so that only ratios between layers mean something. What TensorRT does not have saves nothing: FP8 of a
    transposed convolution, and of a recurrent layer's arithmetic, of which only the weights become INT8.
    """
    work, moved = macs(graph, shapes), traffic(graph, shapes)
    nodes = {str(node.name): node for node in graph.model.graph}
    base = next((p for p in ("fp16", "bf16", "tf32", "fp32") if p in target.peak_tops), None)

    def seconds(name: str, fmt: str) -> float:
        fmt = _carried_out(nodes[name].op_type, fmt)
        rate = target.peak_tops.get(fmt) or target.peak_tops.get(base or "fp16") or 1.0  # type: ignore[call-overload]
        bandwidth = target.bandwidth_gb_s or 1.0
        # the graph is float32: 4 bytes an element; what is quantized moves fewer, results stay FP16
        weights = _weight_bytes(nodes[name])
        read = _FP16 if fmt in _WEIGHTS_ALONE else _BYTES.get(fmt, _FP16)
        bytes_moved = weights * _BYTES.get(fmt, _FP16) / 4 + (moved[name].read - weights) * read / 4
        bytes_moved += moved[name].written * _FP16 / 4
        return max(2 * work.get(name, 0) / (rate * 1e12), bytes_moved / (bandwidth * 1e9))

    return {n: {f: max(seconds(n, "fp16") - seconds(n, f), _LEAST) for f in formats} for n in layers}


def _carried_out(op: str, fmt: str) -> str:
    """What TensorRT's rules make of a format for an operator."""
    if op in _RECURRENT:
        return "int8-weights" if fmt in {"int8", "fp8", "int8-weights"} else "fp16"
    if fmt in _WEIGHTS_ALONE:
        return fmt if op in {"MatMul", "Gemm"} else "fp16"
    return "fp16" if op == "ConvTranspose" and fmt == "fp8" else fmt


def _weight_bytes(node: ir.Node) -> int:
    """Bytes of the constants that are quantized as weights."""
    indices = (1, 2) if node.op_type in _RECURRENT else (1,)
    tensors = [constant(node.inputs[i]) for i in indices if i < len(node.inputs)]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def layer_pair(
    graph: Graph, node: ir.Node, shape: Shape, result: Shape, target: Target
) -> tuple[Graph, Graph, Array] | None:
    """A layer alone in float32 and in INT8 by the target's rules, and an input; ``None`` where INT8 is not possible.

    Args:
        graph: which the node is of.
        node: with a constant weight.
        shape: of its first input.
        result: of its output.
        target: a CPU.
    """
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    plain = _single(graph, node, shape, result)
    low, high = float(values.min()), float(values.max())
    with Executor(plain, "all") as executor:
        found = executor.run({"x": values})["y"]
    ranges = {"x": Range(low, high), "raw": Range(float(found.min()), float(found.max()))}
    quantized = plain.clone()
    plan = make_plan(quantized, Ranges(ranges, 1, "min-max", "timing"), target, Recipe(), "int8")
    if not plan.weights:
        return None
    insert_qdq(quantized, plan)
    return plain, quantized, values


def _timed(graph: Graph, node: ir.Node, shape: Shape, result: Shape, target: Target) -> float:
    pair = layer_pair(graph, node, shape, result, target)
    if pair is None:
        return _LEAST
    plain, quantized, values = pair
    with Executor(plain, "all") as first, Executor(quantized, "all") as second:
        times: Mapping[str, list[float]] = {"plain": [], "quantized": []}
        end = time.perf_counter() + _SECONDS
        while len(times["plain"]) < _RUNS or time.perf_counter() < end:
            for name, executor in (("plain", first), ("quantized", second)):
                start = time.perf_counter()
                executor.run({"x": values})
                times[name].append(time.perf_counter() - start)
            if time.perf_counter() > end and len(times["plain"]) >= 3:
                break
    return max(statistics.median(times["plain"]) - statistics.median(times["quantized"]), _LEAST)


def _single(graph: Graph, node: ir.Node, shape: Shape, result: Shape) -> Graph:
    """The layer alone, from ``x`` by way of ``raw`` to ``y``, so that its result is not the model's."""
    float_type = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(shape), type=float_type)
    weights = [_copied(v) for v in node.inputs[1:]]
    copy = ir.Node(node.domain, node.op_type, [x, *weights], list(node.attributes.values()), name="layer")
    last = ir.Node("", "Identity", [copy.outputs[0]], name="last")
    for value, name in ((copy.outputs[0], "raw"), (last.outputs[0], "y")):
        value.name, value.type, value.shape = name, float_type, ir.Shape(result)
    main = ir.Graph(
        [x],
        [last.outputs[0]],
        nodes=[copy, last],
        initializers=[v for v in weights if v is not None],
        opset_imports=dict(graph.model.graph.opset_imports),
        name="layer",
    )
    return Graph(ir.Model(main, ir_version=graph.model.ir_version), "layer")


def _copied(value: ir.Value | None) -> ir.Value | None:
    if value is None or value.const_value is None:
        return None
    return ir.Value(name=value.name, shape=value.shape, type=value.type, const_value=value.const_value)
