"""What fits the memory of a target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nets import net, node, normal

from edgebig.errors import UsageError
from edgebig.graph import Graph
from edgebig.recipe import ShapeRange
from edgebig.request import Request, Shapes
from edgebig.source import Source, SourcePart
from edgebig.stages import StageNotes
from edgebig.steps import prepare_graph
from edgebig.steps.room import Room
from edgebig.steps.work import PartWork
from edgebig.target import Target


def scores() -> Graph:
    """Products of all tokens with all tokens: activations that grow with the square of the length."""
    return net(
        [
            node("Transpose", "x", "t", perm=[0, 2, 1]),
            node("MatMul", "x t", "s"),
            node("Softmax", "s", "p"),
            node("MatMul", "p x", "a"),
            node("MatMul", "a w", "y"),
        ],
        {"x": ["batch", "sequence", 16]},
        ["y"],
        {"w": normal(16, 16)},
    )


def prepared(memory_gb: float, precision: str = "fp32", **shapes: str) -> tuple[PartWork, StageNotes]:
    board = Target(
        name="board",
        description="a board of its own",
        engine="ahead",
        compute_capability="8.9",
        memory_gb=memory_gb,
        precisions=("fp32", "fp16"),
        sources={"memory_gb": "this test"},
    )
    request = Request.resolve(None, board, None, Shapes(**shapes), {"precision": precision})
    part = SourcePart("model", scores(), Path("m.onnx"), axes={"sequence": (1, 128, 2048)})
    notes = StageNotes("graph", lambda event: None)
    return prepare_graph(part, Source("onnx", "m", (part,)), request, notes), notes


def needed(batch: int, length: int) -> int:
    """Bytes in float32: the scores before and after the softmax, input and its transposed form are alive, weights."""
    return 4 * (2 * batch * length**2 + batch * length * 16 + 16 * 16)


def test_the_estimate_counts_what_lives_at_once() -> None:
    request = Request.resolve(None, "l4", None, Shapes(), {"precision": "fp32"})
    room = Room.of(scores(), request)
    assert room is not None and room.memory == 24_000_000_000
    assert room.needed({"x": (2, 128, 16)}) == needed(2, 128)
    assert room.least({"x": (2, 128, 16)}) == 4 * (2 * 2 * 128 * 16 + 16 * 16)
    half = Room.of(scores(), Request.resolve(None, "l4", None, Shapes(), {"precision": "fp16"}))
    assert half is not None and half.needed({"x": (2, 128, 16)}) * 2 == needed(2, 128)
    assert Room.of(scores(), Request.resolve(None, "cpu", None, Shapes(), {})) is None


@pytest.mark.parametrize(
    ("memory", "precision", "largest"),
    [(1.0, "fp32", (8, 2048)), (0.3, "fp32", (4, 2048)), (0.3, "fp16", (8, 2048)), (0.02, "fp32", (1, 1024))],
)
def test_largest_sizes_fit_the_memory(memory: float, precision: str, largest: tuple[int, int]) -> None:
    work, notes = prepared(memory, precision)
    assert work.profiles["x"].max == (*largest, 16)
    assert work.profiles["x"].opt == (1, 128, 16)
    share = 1.0 if precision == "fp32" else 0.5
    assert needed(*largest) * share <= 0.75 * memory * 1e9
    said = " ".join(notes.notes)
    assert ("made smaller for the target's memory" in said) == (largest != (8, 2048))
    assert not notes.declined


def test_a_note_has_the_figures() -> None:
    _, notes = prepared(0.3)
    (line,) = [line for line in notes.notes if "made smaller" in line]
    assert "x:1x1x16 to 4x2048x16; x:1x1x16 to 8x2048x16 would take about 0.3 GB, board has 0.3 GB, " in line
    assert "of which 75% are counted on" in line


def test_what_was_asked_stays_and_is_told() -> None:
    asked = {"min_": "x:1x1x16", "opt": "x:1x128x16", "max": "x:8x2048x16"}
    work, notes = prepared(0.3, min=asked["min_"], opt=asked["opt"], max=asked["max"])
    assert work.profiles["x"].max == (8, 2048, 16)
    (line,) = notes.declined
    assert line.startswith("model: may not fit: at x:1x1x16 to 8x2048x16 it takes about 0.3 GB, board has 0.3 GB")
    assert line.endswith("ask for smaller --max-shapes")


def test_what_cannot_be_held_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shapes: model at x:1x1x16 to 64x500000x16 has 4\.1 GB of weights, inputs"):
        prepared(0.3, min="x:1x1x16", opt="x:1x128x16", max="x:64x500000x16")


def test_a_fixed_shape_that_cannot_be_held_is_refused_in_its_own_words() -> None:
    says = r"model at these shapes has 4\.1 GB of weights, .* board has 0\.3 GB: ask for smaller --shapes$"
    with pytest.raises(UsageError, match=says):
        prepared(0.3, fixed="x:64x500000x16")  # type: ignore[arg-type]


def test_the_shape_that_was_asked_for_once_is_one_range() -> None:
    work, _ = prepared(1.0, fixed="x:2x64x16")  # type: ignore[arg-type]
    assert work.profiles == {} and work.graph.inputs[0].shape == (2, 64, 16)
    assert ShapeRange(min=(2,), opt=(2,), max=(2,)).is_static and np.prod(work.graph.inputs[0].shape) == 2048
