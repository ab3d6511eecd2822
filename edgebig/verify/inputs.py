"""Makes inputs for a graph whose owner gave none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.spec import TensorSpec

Sample = dict[str, np.ndarray[Any, Any]]
_THROUGH = {"Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten"}
_TOKENS = 100


def made_inputs(graph: Graph, shapes: Mapping[str, tuple[int, ...]], count: int) -> list[Sample]:
    """Random inputs that fit the graph, the same on every call.

    Floats are standard normal; integers lie within the tables that they index; masks are ones.

    Args:
        graph: whose inputs are made.
        shapes: the shape of each input that has a dynamic axis.
        count: how many to make.
    """
    random = np.random.default_rng(0)
    limits = {spec.name: _index_limit(graph.require_input(spec.name)) for spec in graph.inputs}
    return [{s.name: _array(s, shapes.get(s.name), limits[s.name], random) for s in graph.inputs} for _ in range(count)]


def _array(
    spec: TensorSpec, shape: tuple[int, ...] | None, limit: int, random: np.random.Generator
) -> np.ndarray[Any, Any]:
    sizes = shape or tuple(d if isinstance(d, int) else 1 for d in spec.shape)
    if "mask" in spec.name or spec.dtype == "bool":
        return np.ones(sizes, spec.dtype)
    if spec.dtype.startswith(("int", "uint")):
        return random.integers(0, limit, sizes).astype(spec.dtype)
    return np.asarray(random.standard_normal(sizes)).astype(spec.dtype)


def _index_limit(value: ir.Value) -> int:
    """The smallest table that the value indexes, directly or after a change of shape or type."""
    limit = _TOKENS
    for node, index in value.uses():
        if node.op_type in _THROUGH:
            limit = min(limit, _index_limit(node.outputs[0]))
        elif node.op_type == "Gather" and index == 1:
            table = constant(node.inputs[0])
            if table is not None:
                limit = min(limit, table.numpy().shape[node.attributes.get_int("axis", 0)])
    return limit
