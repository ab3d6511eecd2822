"""What preparing a graph depends on: the target."""

from __future__ import annotations

from pathlib import Path

import pytest
from nets import net, node, normal, op_types

from edgebig.request import Request, Shapes
from edgebig.source import Source, SourcePart
from edgebig.stages import StageNotes
from edgebig.steps import prepare_graph


@pytest.mark.parametrize(("target", "expected"), [("cpu", ["Gemm", "Tanh"]), ("l4", ["MatMul", "Add", "Tanh"])])
def test_a_bias_goes_into_its_product_on_cpus_alone(target: str, expected: list[str]) -> None:
    graph = net(
        [node("MatMul", "x w", "p"), node("Add", "p b", "s"), node("Tanh", "s", "y")],
        {"x": ["batch", 6]},
        ["y"],
        {"w": normal(6, 4), "b": normal(4, seed=1)},
    )
    part = SourcePart("model", graph, Path("model.onnx"))
    request = Request.resolve(None, target, None, Shapes(), {})
    notes = StageNotes("graph", lambda event: None)
    prepared = prepare_graph(part, Source("onnx", "model", (part,)), request, notes)
    assert op_types(prepared.graph) == expected
    assert ("make Gemms: 1 MatMul and Add became Gemm" in notes.notes) == (target == "cpu")
