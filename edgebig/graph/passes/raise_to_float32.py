"""Raises a graph in a half precision to float32, in which every later stage computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgebig.graph.graph import Graph
from edgebig.graph.passes.base import PassReport
from edgebig.graph.shapes import infer_shapes

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_DTYPE_ATTRIBUTES = ("to", "dtype")


@dataclass(frozen=True)
class RaiseToFloat32:
    """Converts FP16 and BF16 weights, constants and casts to float32.

    The model's inputs and outputs keep their types, behind a Cast.
    """

    name = "raise to float32"

    def __call__(self, graph: Graph) -> PassReport:
        main = graph.model.graph
        weights = [v for g in _graphs(graph) for v in g.initializers.values() if v.dtype in _HALF]
        for value in weights:
            if value.const_value is not None:
                value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
                value.type = ir.TensorType(ir.DataType.FLOAT)
        changed = [_raise_node(node) for node in graph.nodes()]
        inputs = [v for v in main.inputs if v.dtype in _HALF]
        outputs = [v for v in main.outputs if v.dtype in _HALF]
        if not (weights or any(changed) or inputs or outputs):
            return PassReport(self.name)
        output_types = {str(v.name): v.dtype for v in main.outputs}
        for node in graph.nodes():
            for value in node.outputs:
                if value.dtype in _HALF:
                    value.type = ir.TensorType(ir.DataType.FLOAT)
        for value in inputs:
            _cast_input(main, value)
        for index, value in enumerate(main.outputs):
            wanted = output_types[str(value.name)]
            if wanted in _HALF:
                main.outputs[index] = _cast_output(main, value, wanted)
        infer_shapes(graph)
        return PassReport(self.name, (f"{len(weights)} weights, {len(inputs)} inputs, {len(outputs)} outputs",))


def _graphs(graph: Graph) -> list[ir.Graph]:
    found = {id(graph.model.graph): graph.model.graph}
    for node in graph.nodes():
        if isinstance(node.graph, ir.Graph):
            found[id(node.graph)] = node.graph
    return list(found.values())


def _raise_node(node: ir.Node) -> bool:
    """Changes attributes that name or hold a half precision; says whether there were any."""
    found = False
    for name in _DTYPE_ATTRIBUTES:
        attribute = node.attributes.get(name)
        is_type = attribute is not None and attribute.type == ir.AttributeType.INT
        if is_type and node.attributes.get_int(name) in {int(d) for d in _HALF}:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
            found = True
    value = node.attributes.get("value")
    if value is not None and value.type == ir.AttributeType.TENSOR and value.as_tensor().dtype in _HALF:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(value.as_tensor().numpy().astype(np.float32)))
        found = True
    return found


def _cast_input(main: ir.Graph, value: ir.Value) -> None:
    uses = list(value.uses())
    if not uses:
        return
    cast = _cast(value, ir.DataType.FLOAT, f"{value.name}/float32")
    for node, index in uses:
        node.replace_input_with(index, cast.outputs[0])
    main.insert_before(main[0], cast)


def _cast_output(main: ir.Graph, value: ir.Value, wanted: ir.DataType) -> ir.Value:
    name = str(value.name)
    value.name = f"{name}/float32"
    cast = _cast(value, wanted, name)
    main.append(cast)
    return cast.outputs[0]


def _cast(value: ir.Value, wanted: ir.DataType, name: str) -> ir.Node:
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(wanted))], name=f"{name}/cast")
    cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = name, value.shape, ir.TensorType(wanted)
    return cast
