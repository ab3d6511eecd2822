"""Carries out a plan: puts Q/DQ pairs on activations and quantized weights into the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from edgebig.errors import GraphError
from edgebig.graph import Graph
from edgebig.graph.check import check_graph
from edgebig.graph.values import constant, new_initializer
from edgebig.quantize.formats import INT8, NVFP4, Format, channel_scales
from edgebig.quantize.plan import ActivationChoice, Plan, WeightChoice
from edgebig.quantize.scales import fp8_scales, spread, tensor_scale, weight_scales

Array = np.ndarray[Any, Any]


def insert_qdq(
    graph: Graph,
    plan: Plan,
    rounded: Mapping[str, Array] | None = None,
    scales: Mapping[str, Array] | None = None,
    *,
    check: bool = True,
) -> None:
    """Changes ``graph`` in place.

    Args:
        graph: the float32 graph that the plan was made for, at an opset that knows the plan's formats.
        plan: what to do.
        rounded: by node, the weight's values in its format and shape, to be taken with the plan's scales;
            other weights are rounded to nearest.
        scales: by node, scales of the weight to be taken instead of the plan's.
        check: whether the whole graph is checked at the end, which takes as long as all the rest; for trials that
            are only run.

    Raises:
        GraphError: the graph became invalid, or rounded values do not fit their weight.
    """
    rounded, scales = rounded or {}, scales or {}
    main = graph.model.graph
    nodes = {str(node.name): node for node in main}
    values = {str(v.name): v for v in [*main.inputs, *(o for node in main for o in node.outputs)]}
    for name, choice in plan.activations.items():
        _quantize_activation(graph, values[name], choice, nodes)
    used = {
        w.node: _quantize_weight(graph, nodes[w.node], w, rounded.get(w.node), scales.get(w.node)) for w in plan.weights
    }
    for name in plan.integer_biases:
        _quantize_bias(graph, nodes[name], plan, used[name])
    for name in plan.embeddings:
        _quantize_embedding(graph, nodes[name])
    _drop_unused_initializers(main)
    if check and not plan.is_empty:
        check_graph(graph, "quantization")


def _quantize_activation(graph: Graph, value: ir.Value, choice: ActivationChoice, nodes: dict[str, ir.Node]) -> None:
    main = graph.model.graph
    readers = None if choice.readers is None else {id(nodes[name]) for name in choice.readers}
    uses = [(node, index) for node, index in value.uses() if readers is None or id(node) in readers]
    scale = new_initializer(graph, f"{value.name}/scale", np.array(choice.scale, np.float32))
    zero = new_initializer(graph, f"{value.name}/zero_point", _zero_point(choice.format, choice.zero_point))
    quantize = ir.Node("", "QuantizeLinear", [value, scale, zero], name=f"{value.name}/quantize")
    _describe(quantize.outputs[0], f"{value.name}/quantized", choice.format.dtype, value.shape)
    new = [quantize]
    # one DequantizeLinear for each reader: ONNX Runtime and TensorRT match Q/DQ around single nodes
    for position, (node, index) in enumerate(uses):
        dequantize = ir.Node("", "DequantizeLinear", [quantize.outputs[0], scale, zero])
        dequantize.name = f"{value.name}/dequantize/{position}"
        _describe(dequantize.outputs[0], f"{value.name}/dequantized/{position}", ir.DataType.FLOAT, value.shape)
        node.replace_input_with(index, dequantize.outputs[0])
        new.append(dequantize)
    producer = value.producer()
    if producer is not None:
        main.insert_after(producer, new)
    else:
        main.insert_before(main[0], new)


def _quantize_weight(
    graph: Graph, node: ir.Node, choice: WeightChoice, values: Array | None, scale: Array | None
) -> Array:
    """Replaces a weight by its quantized values and a DequantizeLinear; returns the scales."""
    value = node.inputs[choice.input]
    tensor = constant(value)
    if tensor is None or value is None:
        raise GraphError(f"the weight of {choice.node} is not a constant")
    weight = np.asarray(tensor.numpy(), np.float32)
    fmt = choice.format
    scale = weight_scales(weight, choice) if scale is None else scale
    if values is None:
        values = fmt.quantize(weight, spread(scale, choice, weight.shape))
    elif values.shape != weight.shape or values.dtype != fmt.dtype.numpy():
        raise GraphError(
            f"the rounded weight of {choice.node} is {values.dtype} {values.shape}, "
            f"the plan asks for {fmt.name} {weight.shape}: round it anew with this plan"
        )
    attributes = [ir.AttrInt64("axis", choice.axis)] if choice.axis is not None else []
    if choice.block is not None:
        attributes.append(ir.AttrInt64("block_size", choice.block))
    name = f"{value.name}/{choice.node}"
    inputs = [new_initializer(graph, f"{name}/quantized", values, fmt.dtype)]
    if fmt == NVFP4:
        inputs.append(_nvfp4_scale(graph, node, name, scale, tensor_scale(weight)))
    else:
        zero = np.broadcast_to(_zero_point(fmt, 0), scale.shape).copy()
        inputs.append(new_initializer(graph, f"{name}/scale", scale))
        inputs.append(new_initializer(graph, f"{name}/zero_point", zero, fmt.dtype))
    dequantize = ir.Node("", "DequantizeLinear", inputs, attributes, name=f"{name}/dequantize")
    _describe(dequantize.outputs[0], f"{name}/dequantized", ir.DataType.FLOAT, value.shape)
    graph.model.graph.insert_before(node, dequantize)
    node.replace_input_with(choice.input, dequantize.outputs[0])
    return scale


def _nvfp4_scale(graph: Graph, node: ir.Node, name: str, scale: Array, whole: Array) -> ir.Value:
    """The scales of NVFP4's blocks, dequantized from FP8."""
    inputs = [
        new_initializer(graph, f"{name}/scale/quantized", fp8_scales(scale, whole)),
        new_initializer(graph, f"{name}/scale/scale", whole),
    ]
    dequantize = ir.Node("", "DequantizeLinear", inputs, name=f"{name}/scale/dequantize")
    _describe(dequantize.outputs[0], f"{name}/scale", ir.DataType.FLOAT, ir.Shape(scale.shape))
    graph.model.graph.insert_before(node, dequantize)
    return dequantize.outputs[0]


def _quantize_bias(graph: Graph, node: ir.Node, plan: Plan, weight_scale: Array) -> None:
    """An INT32 bias whose scale is the input's times the weight's, as QLinearConv takes it."""
    value = node.inputs[2]
    tensor = constant(value)
    first = node.inputs[0]
    dequantize = first.producer() if first is not None else None
    if tensor is None or value is None or dequantize is None or dequantize.inputs[1] is None:
        raise GraphError(f"the bias of {node.name} is not a constant, or its input is not quantized")
    input_scale = constant(dequantize.inputs[1])
    if input_scale is None:
        raise GraphError(f"the scale of the input of {node.name} is not a constant")
    scale = np.float32(input_scale.numpy()) * weight_scale.astype(np.float32)
    bias = np.asarray(tensor.numpy(), np.float64)
    limit = np.iinfo(np.int32)
    quantized = np.clip(np.rint(bias / scale), limit.min, limit.max).astype(np.int32)
    name = f"{value.name}/{node.name}"
    inputs = [
        new_initializer(graph, f"{name}/quantized", quantized),
        new_initializer(graph, f"{name}/scale", scale.astype(np.float32)),
        new_initializer(graph, f"{name}/zero_point", np.zeros(scale.shape, np.int32)),
    ]
    attributes = [ir.AttrInt64("axis", 0)] if scale.ndim else []
    new = ir.Node("", "DequantizeLinear", inputs, attributes, name=f"{name}/dequantize")
    _describe(new.outputs[0], f"{name}/dequantized", ir.DataType.FLOAT, value.shape)
    graph.model.graph.insert_before(node, new)
    node.replace_input_with(2, new.outputs[0])


def _quantize_embedding(graph: Graph, node: ir.Node) -> None:
    """Gathers INT8 rows and their scales, and multiplies them: DequantizeLinear takes no gathered scale."""
    table, indices = node.inputs[0], node.inputs[1]
    tensor = constant(table)
    if tensor is None or table is None:
        raise GraphError(f"the table of {node.name} is not a constant")
    rows = np.asarray(tensor.numpy(), np.float32)
    scale = channel_scales(rows, 0, INT8)[:, None]
    name = f"{table.name}/{node.name}"
    quantized = new_initializer(graph, f"{name}/quantized", INT8.quantize(rows, scale))
    scales = new_initializer(graph, f"{name}/scale", scale)
    result = node.outputs[0]
    gathered = ir.Node("", "Gather", [quantized, indices], [ir.AttrInt64("axis", 0)], name=f"{name}/rows")
    _describe(gathered.outputs[0], f"{name}/rows", ir.DataType.INT8, result.shape)
    gathered_scale = ir.Node("", "Gather", [scales, indices], [ir.AttrInt64("axis", 0)], name=f"{name}/row_scales")
    _describe(gathered_scale.outputs[0], f"{name}/row_scales", ir.DataType.FLOAT, None)
    cast = ir.Node("", "Cast", [gathered.outputs[0]], [ir.AttrInt64("to", int(ir.DataType.FLOAT))], name=f"{name}/cast")
    _describe(cast.outputs[0], f"{name}/cast", ir.DataType.FLOAT, result.shape)
    product = ir.Node("", "Mul", [cast.outputs[0], gathered_scale.outputs[0]], name=f"{name}/dequantize")
    _describe(product.outputs[0], f"{name}/dequantized", ir.DataType.FLOAT, result.shape)
    graph.model.graph.insert_before(node, [gathered, gathered_scale, cast, product])
    ir.convenience.replace_all_uses_with(result, product.outputs[0], replace_graph_outputs=True)
    graph.model.graph.remove(node, safe=True)


def _zero_point(fmt: Format, value: int) -> Array:
    if fmt.dtype == ir.DataType.FLOAT8E4M3FN:
        return np.zeros((), ml_dtypes.float8_e4m3fn)
    return np.array(value, fmt.dtype.numpy())


def _describe(value: ir.Value, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    value.name, value.type, value.shape = name, ir.TensorType(dtype), shape


def _drop_unused_initializers(main: ir.Graph) -> None:
    for name in [n for n, v in main.initializers.items() if not v.uses() and not v.is_graph_output()]:
        del main.initializers[name]
