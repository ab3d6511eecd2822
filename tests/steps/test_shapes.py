"""Shapes that a graph's trial runs lead to, and the builder that takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import rtx_engine
from nets import net, node, normal

from edgebig.build import Profile, derive_profiles
from edgebig.errors import BuildError
from edgebig.graph import Executor, Graph
from edgebig.source import SourcePart
from edgebig.stages import StageNotes
from edgebig.steps.shapes import choose_profiles
from edgebig.steps.work import Sample


def patches() -> Graph:
    """A picture's patches with learned positions for 96 x 96, as a ViT has them."""
    return net(
        [
            node("Conv", "x w", "c", strides=[16, 16]),
            node("Reshape", "c s", "r"),
            node("Add", "r p", "y"),
        ],
        {"x": ["batch", 3, "height", "width"]},
        ["y"],
        {"w": normal(4, 3, 16, 16), "s": np.array([0, 4, -1]), "p": normal(1, 4, 36)},
    )


def waves() -> Graph:
    """Two convolutions of sound, the shortest input of which has 2500 samples."""
    return net(
        [node("Unsqueeze", "input_values a", "u"), node("Conv", "u w", "c", strides=[500]), node("Conv", "c v", "y")],
        {"input_values": ["batch", "samples"]},
        ["y"],
        {"a": np.array([1]), "w": normal(4, 1, 500), "v": normal(4, 4, 5)},
    )


def chosen(graph: Graph, best_only: bool = False) -> tuple[dict[str, Profile], StageNotes]:
    notes = StageNotes("graph", lambda event: None)
    (found,) = choose_profiles(SourcePart("model", graph, Path("model.onnx")), graph, [{}], notes, best_only=best_only)
    return found, notes


@pytest.mark.parametrize(
    ("graph", "careless", "expected"),
    [
        (
            patches(),
            {"x": Profile((1, 3, 1, 1), (1, 3, 1, 1), (8, 3, 16, 16))},
            {"x": Profile((1, 3, 96, 96), (1, 3, 96, 96), (8, 3, 111, 111))},
        ),
        (
            waves(),
            {"input_values": Profile((1, 1), (1, 1), (8, 16))},
            {"input_values": Profile((1, 2500), (1, 16000), (8, 320000))},
        ),
    ],
)
def test_shapes_are_moved_until_the_builder_takes_them(
    graph: Graph, careless: dict[str, Profile], expected: dict[str, Profile], tmp_path: Path
) -> None:
    found, notes = chosen(graph)
    assert found == expected
    assert any("found by trying" in line for line in notes.notes)
    pytest.importorskip("tensorrt_rtx_bindings")
    graph.save(tmp_path / "model.onnx")
    with pytest.raises(BuildError):
        rtx_engine(tmp_path / "model.onnx", "8.9", careless)
    assert len(rtx_engine(tmp_path / "model.onnx", "8.9", found)) > 1000


def test_a_graph_without_dynamic_axes_is_not_tried() -> None:
    found, notes = chosen(net([node("Relu", "x", "y")], {"x": [1, 3]}, ["y"]))
    assert found == {} and not notes.notes and not notes.declined


def test_where_nothing_computes_the_guess_stays_and_is_told() -> None:
    graph = net([node("Reshape", "x s", "y")], {"x": [1, "length"]}, ["y"], {"s": np.array([7919])})
    found, notes = chosen(graph)
    assert (found,) == derive_profiles(graph.inputs)
    assert "computes at none of the shapes" in notes.declined[0]


def products(name: str) -> Graph:
    """The product of all elements of a row with all others: activations are the square of the length."""
    return net(
        [node("Unsqueeze", "x two", "a"), node("Unsqueeze", "x one", "b"), node("Mul", "a b", "y")],
        {"x": ["batch", name]},
        ["y"],
        {"one": np.array([1]), "two": np.array([2])},
    )


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of ``x`` that graphs were run at."""
    seen: list[tuple[int, ...]] = []
    plain = Executor.run

    def run(self: Executor, feeds: Sample, *more: Any) -> Sample:
        seen.append(feeds["x"].shape)
        return plain(self, feeds, *more)

    monkeypatch.setattr(Executor, "run", run)
    return seen


def test_only_the_best_shapes_are_tried_for_a_cpu(runs: list[tuple[int, ...]]) -> None:
    found, _ = chosen(products("sequence"), best_only=True)
    assert found == {"x": Profile((1, 128), (1, 128), (1, 128))} and runs == [(1, 128)]
    runs.clear()
    assert chosen(products("sequence"))[0] == {"x": Profile((1, 1), (1, 128), (8, 512))}
    assert runs == [(1, 128), (1, 1), (1, 512), (8, 1)]


def test_a_cpu_keeps_the_range_that_the_source_knows_unless_its_best_size_fails() -> None:
    notes = StageNotes("graph", lambda event: None)

    def ranges(graph: Graph, **axes: tuple[int, int, int]) -> Profile:
        part = SourcePart("model", graph, Path("m.onnx"), axes=axes)
        return choose_profiles(part, graph, [{}], notes, best_only=True)[0]["x"]

    assert ranges(products("n"), n=(1, 64, 4096)) == Profile((1, 1), (1, 64), (1, 4096))
    side = (32, 224, 640)
    assert ranges(patches(), height=side, width=side) == Profile((1, 3, 96, 96), (1, 3, 96, 96), (1, 3, 96, 96))


def test_long_trials_of_what_the_source_vouches_for_are_left_out(
    runs: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgebig.steps.shapes._TRUSTED", 1 << 20)
    graph, notes = products("n"), StageNotes("graph", lambda event: None)
    for longest, tried in ((400, True), (1000, False)):
        runs.clear()
        part = SourcePart("model", graph, Path("m.onnx"), axes={"n": (1, 64, longest)})
        (found,) = choose_profiles(part, graph, [{}], notes)
        assert found["x"] == Profile((1, 1), (1, 64), (8, longest))
        assert ((1, longest) in runs) == tried


def test_trials_end_with_the_budget(runs: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    graph = products("sequence")
    monkeypatch.setattr("edgebig.steps.shapes._BUDGET", 400 * 400 * 4)
    longest = chosen(graph)[0]["x"].max[1]
    assert 128 < longest < 400 and (1, longest) in runs
    assert sum(n**2 * 4 for _, n in runs if n > 128) <= 400 * 400 * 4


def test_shapes_whose_activations_are_too_large_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = products("sequence")
    assert chosen(graph)[0]["x"].max == (8, 512)
    # y of one row and 200 columns takes 160 kB
    monkeypatch.setattr("edgebig.steps.shapes._MOST", 200 * 200 * 4 + 4000)
    found, notes = chosen(graph)
    assert found["x"].opt == (1, 128) and 190 <= found["x"].max[1] <= 201
    assert "found by trying" in notes.notes[0]
