"""What a deep learning accelerator (DLA) of a Jetson runs, as far as NVIDIA's documents tell.

[L] NVIDIA TensorRT documentation 11.4.1, "DLA Supported Layers and Restrictions": FP16 and INT8 alone; fixed sizes; two
    spatial axes (four axes in all) for activations, convolutions, deconvolutions, poolings and elementwise layers (sum,
    difference, product, maximum, minimum, quotient, power); kernels of 1 to 32 and strides of 1 to 8; deconvolutions
    without groups, dilation and padding; concatenation of channels alone, of two inputs or more; comparisons in INT8;
    normalization over 3, 5, 7 or 9 channels; constant slopes of PRelu; sizes up to 8192, batches up to 4096.
[G] NVIDIA TensorRT Developer Guide 8.4 and 8.5, chapter "Working with DLA": padding of convolutions of 0 to 31 and less
    than the kernel, dilation of 1 to 32, and what fits the convolution buffer (:func:`_buffer_refusal`); deconvolutions
    with kernels of 1 to 32 or 1x64, 1x96, 1x128, and no square ones of 23 to 32; poolings with windows of 1 to 8,
    strides of 1 to 16 and padding of 0 to 7; clipping from 0 to between 1 and 127; softmax on Orin and not on Xavier.
[P] Docstrings of TensorRT's Python bindings 10.3, ISoftMaxLayer, ISliceLayer, IResizeLayer, IUnaryLayer: softmax not
    along the batch, and with 1024 sizes at most along its axis where others than the batch are above 1; slices of four
    axes, not of the batch, in steps of 1, with constant bounds; resize by whole numbers, up to 32 to the nearest and up
    to 4 bilinear, in few ways of rounding (``_RESIZE``); of the unary operators the absolute value alone.
[O] NVIDIA, Deep-Learning-Accelerator-SW, operators/README.md, "Supported ONNX Operators & Functions on Orin DLA",
    column "through TensorRT" (TensorRT 8.6): what is ``Native`` there is taken here. It has neither Flatten nor Cos;
    matrix products need a constant second input.
[H] NvInfer.h: on Xavier, average pooling counts the padding.

A build log of TensorRT 10.3 on an AGX Orin agrees: of ResNet-50 it left the global average pooling ("AVG Reduce") and
the Flatten to the GPU. Shuffles that change the number of axes or move the batch are taken to be left too; no document
that could be read says it.

The builder decides. It also splits the graph into loadables, at most 16 on a core [L], and may give the GPU more than
what is listed here; on Xavier it takes fewer operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant, static_shape

PRECISIONS = ("fp16", "int8")

_XAVIER = "7.2"
_PLANES = "it has {rank} axes, and a DLA takes four: batch, channels, height, width"
_SPATIAL = {"Conv", "ConvTranspose", "AveragePool", "MaxPool", "Relu", "Sigmoid", "Tanh", "Clip", "LeakyRelu", "PRelu"}
_SPATIAL |= {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "BatchNormalization", "LRN", "Resize", "Abs"}
_COMPARISONS = {"Equal", "Greater", "Less"}
_SHUFFLES = {"Reshape", "Transpose"}
_TAKES = _SPATIAL | _COMPARISONS | _SHUFFLES | {"Gemm", "MatMul", "Concat", "Softmax", "Slice"}
_NO_LAYER = {"Constant", "ConstantOfShape", "Shape", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"}
"""Known when the engine is built, or a number format's scale."""
_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN}
_LARGEST, _LARGEST_BATCH = 8192, 4096
_BANKS, _SOFTMAX = 16, 1024
_RESIZE = {
    ("nearest", "asymmetric", "floor"),
    ("nearest", "half_pixel", "round_prefer_floor"),
    ("nearest", "half_pixel", "round_prefer_ceil"),
    ("linear", "half_pixel", ""),
    ("linear", "pytorch_half_pixel", ""),
}
"""Mode, coordinates and rounding of a resize, in ONNX's words."""


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
    if op == "AveragePool" and capability == _XAVIER and any(_ints(node, "pads")):
        return "" if _int(node, "count_include_pad", 0) else "a Xavier's DLA counts the padding in an average"
    return _limits(node, rank)


def _limits(node: ir.Node, rank: int | None) -> str:
    """Why the node's attributes or constants are beyond a DLA's; empty where they are not."""
    op = node.op_type
    if op == "Conv":
        return _convolution(node)
    if op == "ConvTranspose":
        return _deconvolution(node)
    if op in {"AveragePool", "MaxPool"}:
        found = _beyond("window", _ints(node, "kernel_shape"), 1, 8) or _beyond("stride", _ints(node, "strides"), 1, 16)
        return found or _beyond("padding", _ints(node, "pads"), 0, 7)
    if op == "Concat":
        joins = _int(node, "axis", 0) in {1, 1 - (rank or 0)} and len(node.inputs) > 1
        return "" if joins else "a DLA joins channels alone, of two inputs or more"
    if op in {"Gemm", "MatMul", "PRelu"} and not _from_constant(node.inputs[1]):
        return "its second input is computed, and a DLA takes a constant one"
    if op == "Clip":
        return _clip(node)
    if op == "LRN":
        return "" if _int(node, "size", 0) in {3, 5, 7, 9} else "a DLA normalizes over 3, 5, 7 or 9 channels"
    if op in _COMPARISONS and not any(_is_int8(value) for value in node.inputs):
        return "a DLA compares in INT8 alone"
    if op == "Softmax":
        return _softmax(node, rank)
    if op == "Resize":
        return _resize(node)
    if op == "Slice":
        return _slice(node, rank)
    return _shuffle(node) if op in _SHUFFLES else ""


def _convolution(node: ir.Node) -> str:
    kernel, pads = _kernel(node), _ints(node, "pads")
    found = (
        _beyond("kernel", kernel, 1, 32)
        or _beyond("stride", _ints(node, "strides"), 1, 8)
        or _beyond("dilation", _ints(node, "dilations"), 1, 32)
        or _beyond("padding", pads, 0, 31)
    )
    if not found and len(pads) == 2 * len(kernel) and any(p >= k for p, k in zip(pads, kernel * 2, strict=True)):
        return "its padding is not less than its kernel"
    return found or _buffer_refusal(node, kernel)


def _buffer_refusal(node: ir.Node, kernel: tuple[int, ...]) -> str:
    """Why the convolution buffer does not hold what one step needs, by the formula in [G]; empty where it does.

    It has 16 banks of 32 KiB: those for the weights of one output channel, and those for as many rows of the input as
    the dilated kernel is high, must fit. Groups, for which the formula says nothing, are taken to fit.
    """
    shape = _sizes(node.inputs[0])
    if shape is None or len(shape) != 4 or len(kernel) != 2 or _int(node, "group", 1) != 1:
        return ""
    size = 1 if _is_int8(node.inputs[0]) else 2
    channels, width = shape[1], shape[3]
    weight_banks = _ceil(_ceil(channels * kernel[0] * kernel[1] * size, 128) * 128, 32768)
    slice_entries = _ceil(_ceil(channels * size, 32) * width, 4)
    rows = (kernel[0] - 1) * (_ints(node, "dilations") or (1,))[0] + 1
    banks = weight_banks + _ceil(slice_entries * rows, 256)
    return f"it needs {banks} banks of a DLA's convolution buffer, which has {_BANKS}" if banks > _BANKS else ""


def _deconvolution(node: ir.Node) -> str:
    kernel, strides = _kernel(node), _ints(node, "strides")
    ones = all(d == 1 for d in _ints(node, "dilations")) and _int(node, "group", 1) == 1
    if not ones or any(_ints(node, "pads")):
        return "a DLA takes no groups, dilation or padding in it"
    if sorted(kernel) not in [[1, 64], [1, 96], [1, 128]] and (found := _beyond("kernel", kernel, 1, 32)):
        return found
    for what, sizes in (("kernels", kernel), ("strides", strides)):
        if len(sizes) == 2 and sizes[0] == sizes[1] and 23 <= sizes[0] <= 32:
            return f"TensorRT leaves square {what} of 23 to 32 out, since they take too long to compile for a DLA"
    return ""


def _clip(node: ir.Node) -> str:
    low, high = (_scalar(node.inputs[at]) if len(node.inputs) > at else None for at in (1, 2))
    return "" if low == 0 and high is not None and 1 <= high <= 127 else "a DLA clips from 0 to between 1 and 127 alone"


def _softmax(node: ir.Node, rank: int | None) -> str:
    sizes = _sizes(node.outputs[0])
    if sizes is None or rank is None:
        return ""
    axis = _int(node, "axis", -1) % rank
    if axis == 0:
        return "it goes along the batch"
    others = [size for at, size in enumerate(sizes) if at not in {0, axis}]
    wide = sizes[axis] > _SOFTMAX and any(size > 1 for size in others)
    return f"its axis has {sizes[axis]} sizes, and a DLA takes {_SOFTMAX} where other axes are above 1" if wide else ""


def _resize(node: ir.Node) -> str:
    mode = _text(node, "mode", "nearest")
    most = {"nearest": 32, "linear": 4}.get(mode)
    if most is None:
        return "a DLA resizes to nearest or bilinear"
    coordinates = _text(node, "coordinate_transformation_mode", "half_pixel")
    rounding = _text(node, "nearest_mode", "round_prefer_floor") if mode == "nearest" else ""
    if (mode, coordinates, rounding) not in _RESIZE:
        return f"a DLA has no {mode} resize with {coordinates}{' and ' if rounding else ''}{rounding}"
    before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    if before is None or after is None:
        return ""
    whole = all(new % old == 0 and new // old <= most for old, new in zip(before[2:], after[2:], strict=True))
    return "" if whole and before[:2] == after[:2] else f"a DLA resizes height and width by whole numbers up to {most}"


def _slice(node: ir.Node, rank: int | None) -> str:
    before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    if (rank is not None and rank != 4) or (before and after and before[0] != after[0]):
        return "a DLA slices four axes, and not the batch"
    if not all(_from_constant(value) for value in node.inputs[1:] if value is not None):
        return "its bounds are computed"
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 else None
    return "" if steps is None or set(steps.numpy().tolist()) == {1} else "a DLA slices in steps of 1"


def _shuffle(node: ir.Node) -> str:
    before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    if before is None or after is None:
        return ""
    kept = len(before) == len(after) == 4 and before[0] == after[0] and (_ints(node, "perm") or (0,))[0] == 0
    return "" if kept else "it changes the number of axes or moves the batch"


def _ceil(value: int, by: int) -> int:
    return -(-value // by)


def _sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    """A value's sizes; ``None`` where one is unknown."""
    return None if value is None else static_shape(value.shape)


def _is_int8(value: ir.Value | None) -> bool:
    """Whether a value is what a Q/DQ pair lets through."""
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _scalar(value: ir.Value | None) -> float | None:
    """The number that a constant holds, be it converted after; ``None`` where it is none, or none is there."""
    while value is not None and (producer := value.producer()) is not None and producer.op_type in {"Cast", "Identity"}:
        value = producer.inputs[0]
    tensor = constant(value)
    if tensor is None and producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        tensor = producer.attributes["value"].as_tensor()
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


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


def _text(node: ir.Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


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
