"""What the benchmark of vision models counts; nothing here asserts how good a method is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

from benchmarks.accuracy import vision
from benchmarks.accuracy.vision_models import (
    MODELS,
    VIEWS,
    faces,
    inputs,
    overlaps,
    same_class,
    same_faces,
    same_masks,
    split,
)


def test_ten_views_are_distinct_inputs_and_halves_share_no_picture(shared_data: Path) -> None:
    seen, unseen = split(shared_data / "images")
    assert not {f.read_bytes() for f in seen} & {f.read_bytes() for f in unseen}
    assert len(unseen) * VIEWS >= 500
    views = list(inputs(MODELS["squeezenet"], unseen[:2], VIEWS))
    assert {v.shape for v in views} == {(1, 3, 224, 224)} and len({v.tobytes() for v in views}) == 2 * VIEWS


def test_classes() -> None:
    a, b = np.array([[0.9, 0.1]]), np.array([[0.4, 0.6]])
    assert same_class([[a], [a]], [[a], [b]])[0] == 0.5
    assert same_class([[a]], [[a]]) == (1.0, pytest.approx(1.0))


def test_masks() -> None:
    def logits(mask: list[int]) -> np.ndarray:
        return np.stack([1 - np.array([mask]), np.array([mask])])[None].astype(np.float32)

    truth, found = logits([1, 1, 0, 0]), logits([1, 0, 1, 0])
    mean, first, second = same_masks([[truth, truth]], [[found, truth]])
    assert (first, second, mean) == (pytest.approx(1 / 3), 1.0, pytest.approx(2 / 3))


def test_faces() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1], [0, 0, 2, 1.9], [5, 5, 6, 6]], np.float32)
    assert overlaps(boxes, boxes)[0].tolist() == pytest.approx([1, 0.5, 0.95, 0])
    sure = np.array([0.9, 0.8, 0.95, 0.5])
    scores = np.stack([1 - sure, sure], axis=1)[None]
    kept = faces(scores, boxes[None])
    assert kept.tolist() == [boxes[2].tolist()]
    two = np.array([[[0.1, 0.9]] * 2]), boxes[None, [0, 3]]
    moved = np.array([[[0.1, 0.9]] * 2]), np.array([[[0, 0, 2, 1], [8, 8, 9, 9]]], np.float32)
    assert same_faces([two], [two]) == (1.0, 1.0, 1.0)
    assert same_faces([two], [moved]) == (0.5, 0.5, 0.25)


def test_a_side_is_compiled_and_compared(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "split", lambda folder: tuple(half[:6] for half in split(folder)))
    bench = vision.Bench(MODELS["ultraface"], tmp_path, 1)
    made, missing = bench.make([vision.sides("cpu")[0]])
    assert len(made) == 1 and not missing
    figures = bench.agreements(made)
    assert [f.side for f in figures] == ["edgebig, as it comes"] * 3
    assert all(f.value is not None and 0 <= f.value <= 1 for f in figures) and "6 inputs" in figures[0].what
    assert bench.speeds(made, 1, 0.1)[0].value > 0  # type: ignore[operator]
