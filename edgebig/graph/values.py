"""Questions about values and nodes that several stages ask, and how a weight is added."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph.graph import Graph


def float_activations(graph: Graph) -> list[ir.Value]:
    """The float32 values of the main graph that depend on its inputs."""
    main = graph.model.graph
    values = [*main.inputs, *(value for node in main for value in node.outputs)]
    return [v for v in values if v.dtype == ir.DataType.FLOAT and v.name and v.const_value is None]


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer; ``None`` for anything that is computed."""
    if value is None or value.producer() is not None or value.is_graph_input():
        return None
    return value.const_value


def new_initializer(graph: Graph, name: str, array: np.ndarray[Any, Any], dtype: ir.DataType | None = None) -> ir.Value:
    """Registers a weight; the graph may use the name already, then it gets a number."""
    taken = graph.model.graph.initializers
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}/{number}"
    tensor = ir.tensor(array, dtype=dtype, name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.model.graph.register_initializer(value)
    return value


def static_shape(shape: ir.ShapeProtocol | None) -> tuple[int, ...] | None:
    """The sizes of a shape; ``None`` where one is not known."""
    if shape is None:
        return None
    sizes = [d for d in shape if isinstance(d, int)]
    return tuple(sizes) if len(sizes) == len(shape) else None


def consumers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, each once, in no order."""
    return list({id(node): node for node, _ in value.uses()}.values())
