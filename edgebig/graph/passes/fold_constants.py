"""Computes what is constant, infers shapes, and removes what nothing uses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, LiftConstantsToInitializersPass

from edgebig.graph.branches import decided_by
from edgebig.graph.graph import Graph
from edgebig.graph.passes.base import PassReport, difference, operators
from edgebig.graph.shapes import infer_shapes
from edgebig.graph.values import static_shape

_ROUNDS = 6
_GROWN_LIMIT = 1 << 20
"""Elements that folding may add to the file at most: a broadcast mask stays a computation."""

_GROWING = {"ConstantOfShape", "Expand", "Tile", "Range", "OneHot", "Gather", "Resize", "Trilu", "Where"}
_MOVING = {"Slice", "Concat", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Split", "Flatten", "Neg"}
_QUANTIZATION = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


@dataclass(frozen=True)
class FoldConstants:
    """Folds constants and inlines decided ``If`` until nothing changes (onnxscript's optimizer).

    Each round infers shapes for the whole graph first: a shape that a removed branch had hidden
    may decide the next one.
    """

    name = "fold constants"

    def __call__(self, graph: Graph) -> PassReport:
        from onnxscript.optimizer import optimize_ir  # onnxscript takes a third of a second

        before = operators(graph)
        last = before
        for _ in range(_ROUNDS):
            infer_shapes(graph)
            optimize_ir(graph.model, num_iterations=2, should_fold=_should_fold, output_size_limit=1 << 40)
            CommonSubexpressionEliminationPass()(graph.model)
            now = operators(graph)
            if now == last:
                break
            last = now
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph.model)
        left = sum(node.op_type == "If" for node in graph.nodes())
        declined = (f"{left} If remain: their conditions depend on {decided_by(graph)}",) if left else ()
        return PassReport(self.name, difference(before, operators(graph)), declined)


def _should_fold(node: ir.Node) -> bool | None:
    """Whether to fold a node with constant inputs; ``None`` leaves it to the optimizer's limit on input size."""
    if node.op_type in _QUANTIZATION:
        return False
    if node.op_type in _MOVING:
        return True
    if node.op_type in _GROWING:
        size = _output_size(node)
        return size is not None and size <= _GROWN_LIMIT
    return None


def _output_size(node: ir.Node) -> int | None:
    if node.op_type == "ConstantOfShape" and node.inputs[0] is not None:
        sizes = node.inputs[0].const_value
        return math.prod(int(d) for d in sizes.numpy()) if sizes is not None else None
    shape = static_shape(node.outputs[0].shape)
    return math.prod(shape) if shape is not None else None
