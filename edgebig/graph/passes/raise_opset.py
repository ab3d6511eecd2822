"""Raises a graph to the opset that the pipeline needs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import onnx_ir as ir

from edgebig.errors import GraphError
from edgebig.graph.graph import Graph
from edgebig.graph.passes.base import PassReport


@dataclass(frozen=True)
class RaiseOpset:
    """Converts the graph to at least ``opset``; a newer graph is left as it is.

    Per-channel Q/DQ needs opset 13, Q/DQ of FP16 tensors 19; older graphs would become invalid.
    """

    opset: int
    name = "raise opset"

    def __call__(self, graph: Graph) -> PassReport:
        before = graph.opset
        unused = [d for d in graph.model.opset_imports if d and not any(n.domain == d for n in graph.nodes())]
        for domain in unused:
            del graph.model.opset_imports[domain]
        dropped = (f"dropped the unused operator sets {', '.join(unused)}",) if unused else ()
        if before >= self.opset:
            return PassReport(self.name, dropped)
        from onnxscript.version_converter import convert_version  # onnxscript takes a third of a second

        logging.getLogger("onnxscript.version_converter").setLevel(logging.ERROR)
        convert_version(graph.model, self.opset, fallback=True)
        if before < 11:
            _resize_as_before(graph)
        graph._drop_initializer_inputs()
        if graph.opset != self.opset:
            raise GraphError(
                f"the graph {graph.name} cannot be raised from opset {before} to {self.opset}: "
                f"export it with opset {self.opset}"
            )
        return PassReport(self.name, (*dropped, f"opset {before} became {self.opset}"))


def _resize_as_before(graph: Graph) -> None:
    """Upsample, and Resize before opset 11, map coordinates without the half pixel that is the default since."""
    for node in graph.nodes():
        if node.op_type == "Resize" and "coordinate_transformation_mode" not in node.attributes:
            for name, mode in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
                node.attributes[name] = ir.AttrString(name, mode)
