"""Weight-only quantization: matrix products' weights by block, activations left in float."""

from __future__ import annotations

from collections.abc import Sequence

from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.quantize.choose import is_kept, weight
from edgebig.quantize.formats import INT4
from edgebig.quantize.plan import Plan, WeightChoice


def make(graph: Graph, keep_float: Sequence[str], block: int) -> Plan:
    """INT4 with a scale for each block of ``block`` input channels, rounded to nearest.

    Blocks lie along the input channels, which is the second-last or the last axis of a 2-D weight:
    the two that TensorRT takes.
    """
    plan = Plan()
    for node in graph.model.graph:
        if node.op_type not in {"MatMul", "Gemm"} or node.domain or is_kept(node, keep_float, plan):
            continue
        chosen, tensor = weight(node, INT4), constant(node.inputs[1])
        if isinstance(chosen, str) or tensor is None:
            plan.skipped.append(f"{node.name}: {chosen}")
            continue
        shape = tensor.numpy().shape
        axis = 1 - chosen.axis if chosen.axis is not None else None
        if axis is None or shape[axis] % block:
            plan.skipped.append(f"{node.name}: its weight {shape} does not divide into blocks of {block}")
            continue
        plan.weights.append(WeightChoice(chosen.node, chosen.input, INT4, axis, block))
    return plan
