"""Lowers a float32 graph to FP16 or BF16, with float32 islands where the low format would break it.

The precision is written into the graph (Cast nodes, types of weights), which is what a strongly
typed TensorRT network builds from. Inputs and outputs of the model keep their types.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from edgebig.calibrate.ranges import Ranges
from edgebig.graph import Graph
from edgebig.graph.check import check_graph
from edgebig.graph.schema import accepts
from edgebig.graph.values import constant
from edgebig.quantize.islands import find_islands

FLOAT = ir.DataType.FLOAT
_DTYPE_ATTRIBUTES = {"Cast": "to", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomUniform": "dtype"}
_DTYPE_ATTRIBUTES |= {"RandomNormalLike": "dtype", "RandomUniformLike": "dtype"}


def lower_floats(graph: Graph, low: ir.DataType, ranges: Ranges | None) -> tuple[list[str], list[str]]:
    """Changes ``graph`` in place.

    Args:
        graph: a float32 graph, with or without Q/DQ pairs.
        low: ``FLOAT16`` or ``BFLOAT16``.
        ranges: of the float activations, to find what FP16 cannot hold; ``None``: only constants are looked at.

    Returns:
        Lines on what was done, and lines on what stays float32 and why.

    Raises:
        GraphError: the graph became invalid.
    """
    islands = find_islands(graph, low, ranges)
    main = graph.model.graph
    nodes = list(main)
    lowered = [node for node in nodes if id(node) not in islands]
    casts = _Casts(graph, low)
    outputs = [v for v in main.outputs if v.dtype == FLOAT]
    for node in lowered:
        _retype(node, low)
    for node in nodes:
        wanted = FLOAT if id(node) in islands else low
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (FLOAT, low) and accepts(node, index, low):
                node.replace_input_with(index, casts.get(value, wanted))
        for inner in _inner_nodes(node):
            for index, value in enumerate(inner.inputs):
                if value is not None and value.dtype == low:
                    inner.replace_input_with(index, casts.get(value, FLOAT))
    for value in outputs:
        casts.restore_output(value)
    casts.drop_unused()
    check_graph(graph, f"lowering to {low.name}")
    kept = [f"{node.name} ({node.op_type}): {islands[id(node)]}" for node in nodes if islands.get(id(node))]
    done = [f"{len(lowered)} of {len(nodes)} nodes in {low.name}", f"{casts.count} casts"]
    return done, kept


class _Casts:
    """Makes and reuses the Cast, or the converted copy, of a value in another float type."""

    def __init__(self, graph: Graph, low: ir.DataType) -> None:
        self._main = graph.model.graph
        self._low = low
        self._made: dict[tuple[int, ir.DataType], ir.Value] = {}
        self.count = 0

    def get(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        if value.dtype == wanted:
            return value
        key = (id(value), wanted)
        if key not in self._made:
            tensor = constant(value)
            self._made[key] = self._copy(value, tensor, wanted) if tensor is not None else self._cast(value, wanted)
        return self._made[key]

    def _copy(self, value: ir.Value, tensor: ir.TensorProtocol, wanted: ir.DataType) -> ir.Value:
        converted = ir.tensor(cast_array(tensor.numpy(), wanted), name=f"{value.name}/{wanted.name.lower()}")
        new = ir.Value(name=converted.name, shape=value.shape, type=ir.TensorType(wanted), const_value=converted)
        self._main.register_initializer(new)
        return new

    def _cast(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        name = f"{value.name}/{wanted.name.lower()}"
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(wanted))], name=f"{name}/cast")
        cast.outputs[0].name = name
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(wanted), value.shape
        producer = value.producer()
        if producer is not None:
            self._main.insert_after(producer, [cast])
        else:
            self._main.insert_before(self._main[0], [cast])
        self.count += 1
        return cast.outputs[0]

    def restore_output(self, value: ir.Value) -> None:
        """Gives an output of the model its float32 type and its name back."""
        if value.dtype != self._low:
            return
        name = value.name
        value.name = f"{name}/{self._low.name.lower()}"
        cast = self.get(value, FLOAT)
        cast.name = name
        outputs = self._main.outputs
        for index in [i for i, v in enumerate(outputs) if v is value]:
            outputs[index] = cast

    def drop_unused(self) -> None:
        initializers = self._main.initializers
        for name in [n for n, v in initializers.items() if not v.uses() and not v.is_graph_output()]:
            del initializers[name]


def cast_array(array: np.ndarray[Any, Any], wanted: ir.DataType) -> np.ndarray[Any, Any]:
    """Round to nearest; finite values beyond FP16's range saturate rather than become infinite."""
    if wanted == ir.DataType.FLOAT16:
        limit = float(np.finfo(np.float16).max)
        return np.where(np.isfinite(array), np.clip(array, -limit, limit), array).astype(np.float16)
    if wanted == ir.DataType.BFLOAT16:
        return array.astype(ml_dtypes.bfloat16)
    return array.astype(np.float32)


def _retype(node: ir.Node, low: ir.DataType) -> None:
    """Makes a node compute in the low format: its outputs' types and the attributes that name a type."""
    for value in node.outputs:
        if value.dtype == FLOAT:
            value.type = ir.TensorType(low)
    name = _DTYPE_ATTRIBUTES.get(node.op_type)
    if name is not None and name in node.attributes and node.attributes.get_int(name) == int(FLOAT):
        node.attributes[name] = ir.AttrInt64(name, int(low))
    fill = node.attributes.get("value")
    if node.op_type == "ConstantOfShape":
        old = fill.as_tensor().numpy() if fill is not None else np.zeros(1, np.float32)
        if old.dtype == np.float32:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(cast_array(old, low)))


def _inner_nodes(node: ir.Node) -> Iterable[ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from ir.traversal.RecursiveGraphIterator(attribute.as_graph())
