"""Quantized graphs in which one layer is ruined on purpose."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from nets import Sample, ranges_of

from edgebig.graph import Graph
from edgebig.quantize import insert_qdq, make_plan
from edgebig.recipe import Recipe
from edgebig.target import Target


def quantized(graph: Graph, samples: list[Sample], target: str = "cpu") -> Graph:
    """The graph in INT8, with ranges of the samples."""
    made = graph.clone()
    recipe = Recipe(precision="int8")
    insert_qdq(made, make_plan(made, ranges_of(graph, samples), Target.load(target), recipe, "int8"))
    return made


def ruined(graph: Graph, name: str, factor: float) -> Graph:
    """The graph with the first scale whose name begins so multiplied."""
    made = graph.clone()
    weights = made.model.graph.initializers
    scale = next(v for n, v in weights.items() if n.startswith(name) and "scale" in n)
    assert scale.const_value is not None
    array = scale.const_value.numpy() * np.float32(factor)
    scale.const_value = ir.tensor(array.astype(np.float32), name=scale.name)
    return made
