"""What a deep learning accelerator (DLA) of a Jetson runs, as far as NVIDIA's documents tell.

[L] NVIDIA TensorRT documentation 11.4.1, "DLA Supported Layers and Restrictions": FP16 and INT8 alone; fixed sizes; two
    spatial axes (four axes in all) for activations, convolutions, deconvolutions, poolings and elementwise layers;
    kernels of 1 to 32 and strides of 1 to 8; deconvolutions without groups, dilation and padding; concatenation of
    channels alone; constant slopes of PRelu; sizes up to 8192, batches up to 4096.
[G] NVIDIA TensorRT Developer Guide 8.6, chapter "Working with DLA": poolings with windows of 1 to 8, strides of 1 to 16
    and padding of 0 to 7; softmax on Orin and not on Xavier; resize to the nearest or bilinear; no explicit
    quantization.
[O] NVIDIA, Deep-Learning-Accelerator-SW, operators/README.md, "Supported ONNX Operators on Orin DLA", column "through
    TensorRT": what is ``Native`` there is taken here, and matrix products need a constant second input.

The builder decides. It also splits the graph into loadables, at most 16 on a core [L], and may give the GPU more than
what is listed here; on Xavier it takes fewer operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant

PRECISIONS = ("fp16", "int8")

_XAVIER = "7.2"
_PLANES = "it has {rank} axes, and a DLA takes four: batch, channels, height, width"
_SPATIAL = {"Conv", "ConvTranspose", "AveragePool", "MaxPool", "Relu", "Sigmoid", "Tanh", "Clip", "LeakyRelu", "PRelu"}
_SPATIAL |= {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "BatchNormalization", "LRN", "Resize", "Abs"}
_TAKES = _SPATIAL | {"Gemm", "MatMul", "Concat", "Softmax", "Slice", "Equal", "Greater", "Less", "Cos"}
_TAKES |= {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"}
"""The last five are shuffles to TensorRT's parser."""
_NO_LAYER = {"Constant", "ConstantOfShape", "Shape", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"}
"""Known when the engine is built, or a number format's scale."""
_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN}
_LARGEST, _LARGEST_BATCH = 8192, 4096


@dataclass(frozen=True)
class OnGpu:
    """A node that a DLA does not take: its name, its operator, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class DlaPlan:
    """What a DLA runs of a graph.

    Attributes:
        layers: how many nodes compute something.
        on_gpu: those that the GPU runs, in the graph's order.
    """

    layers: int
    on_gpu: tuple[OnGpu, ...]

    def summary(self) -> tuple[str, ...]:
        """A line on the whole, and one on each reason."""
        count = len(self.on_gpu)
        first = f"a DLA takes {self.layers - count} of {self.layers} layers, as far as NVIDIA's documents tell"
        reasons = Counter((found.op, found.reason) for found in self.on_gpu)
        lines = [f"not on the DLA: {n} {op}: {reason}" for (op, reason), n in reasons.most_common()]
        return (first, *lines)


def dla_plan(graph: Graph, capability: str | None = None) -> DlaPlan:
    """What a DLA runs of a graph in FP16 or INT8, and what it leaves to the GPU.

    Args:
        graph: lowered: its tensors carry their number formats.
        capability: the device's compute capability; ``7.2`` is a Xavier.
    """
    layers, on_gpu = 0, []
    for node in graph.model.graph:
        if (node.op_type in _NO_LAYER and not node.domain) or _is_constant(node):
            continue
        layers += 1
        reason = _refusal(node, capability)
        if reason:
            on_gpu.append(OnGpu(str(node.name), node.op_type, reason))
    return DlaPlan(layers, tuple(on_gpu))


def _refusal(node: ir.Node, capability: str | None) -> str:
    op = node.op_type
    if op == "Cast":
        return "it changes the number format"
    if node.domain or op not in _TAKES:
        return "NVIDIA lists no such operator for a DLA"
    wrong = next((v.dtype for v in node.outputs if v.dtype in _FLOATS), None)
    if wrong is not None:
        return f"it computes in {wrong.name.lower()}, and a DLA in FP16 and INT8 alone"
    output = node.outputs[0]
    rank = None if output.shape is None else len(output.shape)
    if op in _SPATIAL and rank is not None and rank != 4:
        return _PLANES.format(rank=rank)
    sizes = [d if isinstance(d, int) else 1 for d in output.shape or ()]
    if any(size > _LARGEST for size in sizes[1:]) or (sizes and sizes[0] > _LARGEST_BATCH):
        return f"a size is above {_LARGEST}, or the batch above {_LARGEST_BATCH}"
    if op == "Softmax" and capability == _XAVIER:
        return "a Xavier's DLA has no Softmax"
    return _limits(node, rank)


def _limits(node: ir.Node, rank: int | None) -> str:
    """Why the node's attributes or constants are beyond a DLA's; empty where they are not."""
    op = node.op_type
    if op == "Conv":
        kernel = _kernel(node)
        return _beyond("kernel", kernel, 1, 32) or _beyond("stride", _ints(node, "strides"), 1, 8)
    if op == "ConvTranspose":
        ones = all(d == 1 for d in _ints(node, "dilations")) and _int(node, "group", 1) == 1
        return "" if ones and not any(_ints(node, "pads")) else "a DLA takes no groups, dilation or padding in it"
    if op in {"AveragePool", "MaxPool"}:
        found = _beyond("window", _ints(node, "kernel_shape"), 1, 8) or _beyond("stride", _ints(node, "strides"), 1, 16)
        return found or _beyond("padding", _ints(node, "pads"), 0, 7)
    if op == "Concat":
        return "" if _int(node, "axis", 0) in {1, 1 - (rank or 0)} else "a DLA joins channels alone"
    if op in {"Gemm", "MatMul", "PRelu"} and not _from_constant(node.inputs[1]):
        return "its second input is computed, and a DLA takes a constant one"
    if op == "Resize":
        mode = node.attributes.get("mode")
        return (
            "" if mode is None or mode.as_string() in {"nearest", "linear"} else "a DLA resizes to nearest or bilinear"
        )
    return ""


def _beyond(what: str, values: Sequence[int], low: int, high: int) -> str:
    outside = next((value for value in values if not low <= value <= high), None)
    return "" if outside is None else f"its {what} of {outside} is not within {low} to {high}"


def _kernel(node: ir.Node) -> tuple[int, ...]:
    given = _ints(node, "kernel_shape")
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if given or weight is None or weight.shape is None:
        return given
    return tuple(d for d in weight.shape[2:] if isinstance(d, int))


def _ints(node: ir.Node, name: str) -> tuple[int, ...]:
    attribute = node.attributes.get(name)
    return () if attribute is None else tuple(attribute.as_ints())


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def _from_constant(value: ir.Value | None) -> bool:
    """Whether a value is a weight, be it behind a Q/DQ pair or a conversion."""
    while value is not None and constant(value) is None:
        producer = value.producer()
        if producer is None or producer.op_type not in _NO_LAYER | {"Cast", "Transpose"} or not producer.inputs:
            return producer is not None and producer.op_type == "Constant"
        value = producer.inputs[0]
    return value is not None


def _is_constant(node: ir.Node) -> bool:
    """Whether everything that a node reads is a weight: the builder computes it."""
    read = [value for value in node.inputs if value is not None]
    return bool(read) and all(_from_constant(value) for value in read)
