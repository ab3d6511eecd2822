"""Folds BatchNormalization into the convolution before it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from edgebig.graph.graph import Graph
from edgebig.graph.passes.base import PassReport, difference, operators


@dataclass(frozen=True)
class FoldBatchNorm:
    """``W' = W * gamma / sqrt(var + eps)``, ``b' = (b - mean) * gamma / sqrt(var + eps) + beta``.

    For Conv, ConvTranspose and Gemm whose output only the BatchNormalization reads (onnxscript's rules).
    """

    name = "fold BatchNorm"

    def __call__(self, graph: Graph) -> PassReport:
        from onnxscript.rewriter.rules.common import _fuse_batchnorm  # onnxscript takes a third of a second

        before = operators(graph)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph.model)
        _fuse_batchnorm.rules.apply_to_model(graph.model)
        declined = tuple(
            f"{node.name or node.outputs[0].name} stays: {_why(node)}"
            for node in graph.nodes()
            if node.op_type == "BatchNormalization"
        )
        return PassReport(self.name, difference(before, operators(graph)), declined)


def _why(node: ir.Node) -> str:
    value = node.inputs[0]
    producer = value.producer() if value is not None else None
    if producer is None:
        return "it reads an input of the graph"
    if producer.op_type not in {"Conv", "ConvTranspose", "Gemm"}:
        return f"it follows {producer.op_type}, not a convolution"
    if value is not None and (len(value.uses()) > 1 or value.is_graph_output()):
        return f"others read the output of {producer.name or producer.op_type} too"
    return "its statistics or the weights are not constant"
