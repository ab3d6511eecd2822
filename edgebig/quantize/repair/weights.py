"""Rounds all the weights of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.quantize.plan import Plan, WeightChoice
from edgebig.quantize.repair.matrices import from_matrices, refusal, to_matrices
from edgebig.quantize.repair.moments import MEMORY, Moments, Samples, layer_moments
from edgebig.quantize.repair.rounding import Method, round_matrix, shrunk
from edgebig.quantize.scales import spread, weight_scales

Array = np.ndarray[Any, Any]


def round_weights(
    graph: Graph, plan: Plan, samples: Samples, *, method: Method, memory: int = MEMORY
) -> dict[str, Array]:
    """The quantized values of the plan's weights, by node, as :func:`~edgebig.quantize.insert_qdq` takes them.

    Weights that ``method`` is not for (of transposed convolutions, of products in batches) are left out:
    insertion rounds them to nearest.

    Args:
        graph: the float32 graph that the plan was made for; not changed.
        plan: formats and scales.
        samples: inputs of the graph; iterated several times where memory asks for it.
        method: ``nearest`` needs no samples and gives nothing; ``gptq``; or ``adaround``, slower and nearer.
        memory: bytes for moments and activations, unless a single layer needs more.

    Raises:
        CalibrationError: no samples, or an activation is not finite.
    """
    if method == "nearest":
        return {}
    nodes = {str(node.name): node for node in graph.model.graph}
    choices = {w.node: w for w in plan.weights if w.input == 1 and refusal(nodes[w.node]) is None}
    found: dict[str, Array] = {}
    for names, moments in layer_moments(graph, list(choices), samples, memory):
        for name in names:
            found[name] = round_weight(nodes[name], choices[name], moments, method)
    return found


def round_weight(node: ir.Node, choice: WeightChoice, moments: Moments, method: Method) -> Array:
    """One layer's quantized weight, in the weight's shape and the format's dtype."""
    weight, scale = weight_and_scale(node, choice)
    pairs = zip(weight, scale, (shrunk(h, moments.rows) for h in moments.second), strict=True)
    rounded: Sequence[Array] = [round_matrix(w, s, choice.format, h, method) for w, s, h in pairs]
    return from_matrices(node, np.stack(rounded))


def weight_and_scale(node: ir.Node, choice: WeightChoice) -> tuple[Array, Array]:
    """A layer's weight and its scales, both float32 ``[groups, rows, columns]``."""
    tensor = constant(node.inputs[choice.input])
    assert tensor is not None  # refusal() was asked
    weight = np.asarray(tensor.numpy(), np.float32)
    whole = np.broadcast_to(spread(weight_scales(weight, choice), choice, weight.shape), weight.shape)
    return to_matrices(node, weight), to_matrices(node, whole)
