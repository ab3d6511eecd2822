"""Gives every node and value a unique name."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_ir.passes.common import NameFixPass

from edgebig.graph.graph import Graph
from edgebig.graph.passes.base import PassReport


@dataclass(frozen=True)
class NameNodes:
    """Names what has no name and renames what shares one: plans and messages go by names."""

    name = "name nodes"

    def __call__(self, graph: Graph) -> PassReport:
        changed = NameFixPass()(graph.model).modified
        return PassReport(self.name, ("gave names to nodes without one",) if changed else ())
