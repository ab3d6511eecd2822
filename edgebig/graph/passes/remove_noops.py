"""Removes nodes that compute nothing."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgebig.graph.graph import Graph
from edgebig.graph.passes.base import PassReport, difference, operators


@dataclass(frozen=True)
class RemoveNoOps:
    """Identity, Dropout at inference, additions of 0, products with 1, casts to the same type,
    chains of slices, casts, reshapes and transposes that are one, padding and clips that their
    neighbour takes over (onnxscript's rewrite rules).
    """

    name = "remove no-ops"

    def __call__(self, graph: Graph) -> PassReport:
        import onnxscript.rewriter as rewriter  # onnxscript takes a third of a second

        before = operators(graph)
        graph.model = rewriter.rewrite(graph.model)
        for node in graph.nodes():
            if node.op_type == "Identity" and not node.domain:
                _remove_identity(node)
        RemoveUnusedNodesPass()(graph.model)
        return PassReport(self.name, difference(before, operators(graph)))


def _remove_identity(node: ir.Node) -> None:
    """Its readers read its input, unless the graph needs the node to give an output of its own.

    onnx-ir's own pass gives two outputs one name where one is the Identity of the other, and takes
    from a branch the only node that computes what it returns.
    """
    value, result = node.inputs[0], node.outputs[0]
    owner = node.graph
    if value is None or owner is None:
        return
    if result.is_graph_output():
        producer = value.producer()
        if producer is None or producer.graph is not owner or value.is_graph_output():
            return
        value.name, value.type = result.name, result.type or value.type
        value.shape = result.shape if result.shape is not None else value.shape
        for index, output in enumerate(owner.outputs):
            if output is result:
                owner.outputs[index] = value
    ir.convenience.replace_all_uses_with(result, value)
    owner.remove(node, safe=True)
