"""What a compile hands to calibration: the simplified graph, and the tensors that its plan quantizes."""

from __future__ import annotations

from pathlib import Path

from edgebig.calibrate import Range, Ranges
from edgebig.graph import Graph
from edgebig.graph.passes import (
    FoldBatchNorm,
    FoldConstants,
    NameNodes,
    RaiseOpset,
    RaiseToFloat32,
    RemoveNoOps,
    run_passes,
)
from edgebig.quantize import make_plan, observed_tensors
from edgebig.recipe import Recipe
from edgebig.target import Target


def simplified(model: Path) -> Graph:
    """The graph after the passes of a compile."""
    graph = Graph.load(model)
    passes = [RaiseOpset(19), RaiseToFloat32(), FoldBatchNorm(), FoldConstants(), RemoveNoOps(), NameNodes()]
    run_passes(graph, passes)
    return graph


def quantized_tensors(graph: Graph, target: str) -> list[str]:
    """Activations that the INT8 plan of a target quantizes."""
    made_up = {name: Range(-1.0, 1.0) for name in observed_tensors(graph)}
    plan = make_plan(graph, Ranges(made_up, 1, "none", "none"), Target.load(target), Recipe(), "int8")
    return list(plan.activations)
