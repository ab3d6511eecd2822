"""Checks that a graph is a valid ONNX model."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass

from edgebig.errors import GraphError
from edgebig.graph.graph import Graph


def check_graph(graph: Graph, after: str) -> None:
    """Runs ONNX's checker (weights left out, so that its cost does not grow with them).

    Args:
        graph: what to check.
        after: what has just changed it, for the message.

    Raises:
        GraphError: the graph is invalid.
    """
    try:
        CheckerPass()(graph.model)
    except Exception as error:  # onnx and onnx-ir let many kinds through
        cause = error.__cause__ or error
        raise GraphError(f"the graph {graph.name} is invalid after {after}: {cause}"[:600]) from error
    if any(isinstance(v.producer(), ir.Node) for v in graph.model.graph.inputs):
        raise GraphError(f"the graph {graph.name} is invalid after {after}: a node writes to an input")
