"""Infers the shapes inside a graph."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edgebig.graph.graph import Graph, shape_of
from edgebig.spec import Dim


def infer_shapes(graph: Graph) -> None:
    """Infers every shape anew from the graph's inputs (ONNX's shape inference, with data propagation).

    Shapes of an earlier inference are forgotten first: inference would keep a dynamic axis that
    has become a size. A graph's outputs keep their rank, which ONNX requires of them, and the names
    of the axes that stay dynamic, which callers know.
    """
    before = {str(v.name): shape_of(v) for v in graph.model.graph.outputs}
    for node in graph.nodes():
        for value in node.outputs:
            keep_rank = value.is_graph_output() and value.shape is not None
            value.shape = ir.Shape([None] * len(value.shape)) if keep_rank and value.shape is not None else None
    # where the sizes contradict each other it would print how it came there; shapes that stay unknown say as much
    logging.getLogger("onnx_ir.passes.common.shape_inference").setLevel(logging.ERROR)
    ShapeInferencePass(data_prop=True)(graph.model)
    for output in graph.model.graph.outputs:
        old, new = before[str(output.name)], shape_of(output)
        if old is not None and new is not None and len(old) == len(new):
            output.shape = ir.Shape([n if isinstance(n, int) else _name(o) for o, n in zip(old, new, strict=True)])


def _name(dim: Dim) -> str | None:
    return dim if isinstance(dim, str) else None
