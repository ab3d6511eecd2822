"""Infers the shapes inside a graph."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edgebig.graph.graph import Graph, shape_of
from edgebig.spec import Dim

_SMALL = 1 << 10
"""Elements of what is computed for the sake of shapes at most: no weights."""

_GROWING = {"Range", "ConstantOfShape", "Expand", "Tile", "OneHot", "EyeLike"}
"""Their sizes follow from values, which inference reads itself where they are constants."""


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
    inside = [v for node in graph.nodes() for v in node.outputs if not v.is_graph_output()]
    if inside and all(v.shape is None for v in inside):
        # ONNX 1.23 gives up on sums of constant Ranges with axes of their own, whose values it propagates without those
        ShapeInferencePass(data_prop=False)(graph.model)
    for output in graph.model.graph.outputs:
        old, new = before[str(output.name)], shape_of(output)
        if old is not None and new is not None and len(old) == len(new):
            output.shape = ir.Shape([n if isinstance(n, int) else _name(o) for o, n in zip(old, new, strict=True)])


def compute_shapes(graph: Graph) -> bool:
    """Infers shapes once more, after what only depends on shapes was computed: how far a ``Range`` goes, for example.

    A decoder's mask is made so. Weights stay as they are; nodes of the graph go, so that this is for a graph of which
    nothing but shapes is asked.

    Returns:
        Whether anything was computed.
    """
    from onnxscript.optimizer import fold_constants  # onnxscript takes a third of a second

    before = len(graph.nodes())
    fold_constants(
        graph.model,
        onnx_shape_inference=True,
        input_size_limit=_SMALL,
        output_size_limit=_SMALL,
        should_fold=lambda node: False if node.op_type in _GROWING else None,
    )
    infer_shapes(graph)
    return len(graph.nodes()) != before


def _name(dim: Dim) -> str | None:
    return dim if isinstance(dim, str) else None
