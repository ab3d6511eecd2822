"""Removes nodes that compute nothing."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import onnxscript.rewriter as rewriter
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

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
        before = operators(graph)
        graph.model = rewriter.rewrite(graph.model)
        IdentityEliminationPass()(graph.model)
        for node in graph.nodes():
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    _own_outputs(attribute.as_graph())
        # only now: it would take the producer of an outer value for unused that a branch just returns
        RemoveUnusedNodesPass()(graph.model)
        return PassReport(self.name, difference(before, operators(graph)))


def _own_outputs(branch: ir.Graph) -> None:
    """A branch must compute what it returns; removing its Identity may leave an outer value there."""
    inside = {id(v) for v in [*branch.inputs, *branch.initializers.values()]}
    inside |= {id(v) for node in branch for v in node.outputs}
    for index, value in enumerate(branch.outputs):
        if id(value) not in inside:
            identity = ir.Node("", "Identity", [value])
            identity.outputs[0].name = f"{value.name}/in_branch"
            identity.outputs[0].type = value.type
            branch.append(identity)
            branch.outputs[index] = identity.outputs[0]
