"""How large a graph is on a device: what its memory and build time are estimated from."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgebig.errors import EdgebigError
from edgebig.graph import Graph
from edgebig.graph.passes import SetShapes
from edgebig.graph.shapes import infer_shapes
from edgebig.graph.values import static_shape


def sizes_of(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """``weight_bytes``, ``nodes``, and ``activation_bytes`` where every shape follows from the inputs'.

    Activations are counted as the most bytes that live at once when the nodes run in their order: a tensor lives from
    the node that makes it to the last that reads it. An engine fuses nodes and needs less, or picks kernels that need
    more.

    Args:
        graph: in the precision that a device builds.
        shapes: of the inputs with dynamic axes, the largest.
    """
    found = {"weight_bytes": graph.weight_bytes, "nodes": len(graph.nodes())}
    fixed = graph.clone()
    try:
        SetShapes(shapes)(fixed)
        infer_shapes(fixed)
    except EdgebigError:
        return found
    peak = _peak(fixed)
    return found if peak is None else {**found, "activation_bytes": peak}


def _peak(graph: Graph) -> int | None:
    main = graph.model.graph
    nodes = list(main)
    last: dict[ir.Value, int] = {value: len(nodes) for value in main.outputs}
    for index, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None and value not in main.outputs:
                last[value] = index
    living = {value: _bytes(value) for value in main.inputs}
    peak = sum(size or 0 for size in living.values())
    for index, node in enumerate(nodes):
        living.update({value: _bytes(value) for value in node.outputs if value.name})
        if None in living.values():
            return None
        peak = max(peak, sum(size or 0 for size in living.values()))
        living = {value: size for value, size in living.items() if last.get(value, index) > index}
    return peak


def _bytes(value: ir.Value) -> int | None:
    shape = static_shape(value.shape)
    if shape is None or value.dtype is None:
        return None
    count = 1
    for size in shape:
        count *= size
    return -(-count * value.dtype.bitwidth // 8)
