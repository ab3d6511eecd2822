"""The trained vision models: their pictures, and how near a quantized model's answers are to FP32's.

The pictures have no labels, so that every figure is an agreement with FP32 on the half of the pictures that no
side was calibrated with. Crops and flips of them make enough distinct inputs that one of them counts for little.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgebig.recipe import Recipe
from edgebig.tasks.vision import prepare, read_picture

Array = np.ndarray[Any, Any]
Outputs = Sequence[Array]
"""A model's outputs on one input, in its order."""

CROP = 0.8
"""Side of a corner crop, as a part of the picture's."""

VIEWS = 10
"""Of each picture: whole and the four corners, each as it is and mirrored."""

SCORE = 0.7
"""Least probability of a face, as UltraFace's own demo takes it."""

OVERLAP = 0.5
"""Least intersection over union of two boxes that mean the same face."""


@dataclass(frozen=True)
class Model:
    """A model and its figures.

    Attributes:
        title: for people.
        file: below the folder of data.
        recipe: the shipped recipe with its preprocessing.
        views: of each unseen picture, at most :data:`VIEWS`.
        figures: names of what ``agreement`` gives, the first decides; more is better in each.
        agreement: of the expected and found outputs on all inputs.
        to_reach: of the first figure, where there is a number to reach.
    """

    title: str
    file: str
    recipe: str
    views: int
    figures: tuple[str, ...]
    agreement: Callable[[Sequence[Outputs], Sequence[Outputs]], tuple[float, ...]]
    to_reach: float | None = None


def split(folder: Path) -> tuple[list[Path], list[Path]]:
    """Every second picture for calibration, and the others.

    Pictures that are byte for byte the same under two names count once, or an unseen one might have been seen.
    """
    different = {hashlib.sha256(file.read_bytes()).digest(): file for file in sorted(folder.glob("*.jpg"))}
    files = sorted(different.values())
    return files[::2], files[1::2]


def inputs(model: Model, files: Sequence[Path], views: int = 1) -> Iterator[Array]:
    """The model's inputs, float32 ``[1, 3, height, width]``: so many views of each picture."""
    how = Recipe.load(model.recipe).preprocess
    if how is None:
        raise ValueError(f"the recipe {model.recipe} does not say how pictures become tensors")
    for file in files:
        for pixels in _views(read_picture(file), views):
            yield prepare(Image.fromarray(pixels), how)


def _views(pixels: Array, count: int) -> Iterator[Array]:
    """The picture, mirrored, then its corners, each also mirrored: uint8 ``[height, width, 3]``."""
    height, width = (int(size * CROP) for size in pixels.shape[:2])
    windows = [pixels, pixels[:height, :width], pixels[-height:, -width:], pixels[:height, -width:]]
    windows.append(pixels[-height:, :width])
    both = (view for window in windows for view in (window, window[:, ::-1]))
    for _, view in zip(range(count), both, strict=False):
        yield np.ascontiguousarray(view)


def same_class(expected: Sequence[Outputs], found: Sequence[Outputs]) -> tuple[float, ...]:
    """Share of inputs with the same most probable class, and the mean cosine of the probabilities."""
    pairs = [
        (a[0].ravel().astype(np.float64), b[0].ravel().astype(np.float64)) for a, b in zip(expected, found, strict=True)
    ]
    agreed = np.mean([a.argmax() == b.argmax() for a, b in pairs])
    return float(agreed), float(np.mean([_cosine(a, b) for a, b in pairs]))


def same_masks(expected: Sequence[Outputs], found: Sequence[Outputs]) -> tuple[float, ...]:
    """Intersection over union of the foregrounds over all inputs: mean of the outputs, then each.

    Outputs are logits ``[1, 2, height, width]``, the second channel the foreground's.
    """
    count = len(expected[0])
    both, either = np.zeros(count), np.zeros(count)
    for left, right in zip(expected, found, strict=True):
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            first, second = a[0, 1] > a[0, 0], b[0, 1] > b[0, 0]
            both[index] += np.count_nonzero(first & second)
            either[index] += np.count_nonzero(first | second)
    unions = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    return float(unions.mean()), *map(float, unions)


def same_faces(expected: Sequence[Outputs], found: Sequence[Outputs]) -> tuple[float, ...]:
    """F1 of the found faces with FP32's as the truth, the share of FP32's that were found, and their mean overlap.

    A face is found where a box overlaps by :data:`OVERLAP`; one that is not counts as an overlap of 0.
    """
    matched, wanted, given, overlap = 0, 0, 0, 0.0
    for left, right in zip(expected, found, strict=True):
        truth, boxes = faces(*left), faces(*right)
        shared = overlaps(truth, boxes)
        wanted, given = wanted + len(truth), given + len(boxes)
        while shared.size and shared.max() >= OVERLAP:
            row, column = np.unravel_index(shared.argmax(), shared.shape)
            matched, overlap = matched + 1, overlap + float(shared[row, column])
            shared = np.delete(np.delete(shared, row, 0), column, 1)
    return 2 * matched / max(wanted + given, 1), matched / max(wanted, 1), overlap / max(wanted, 1)


def faces(scores: Array, boxes: Array) -> Array:
    """Corners ``[n, 4]`` of the faces, of boxes that overlap by more than :data:`OVERLAP` the surest alone.

    Args:
        scores: ``[1, boxes, 2]``, background and face.
        boxes: ``[1, boxes, 4]``, left, top, right, bottom from 0 to 1.
    """
    sure = scores[0, :, 1]
    order = np.flatnonzero(sure > SCORE)
    order = order[np.argsort(-sure[order], kind="stable")]
    kept: list[Array] = []
    for box in boxes[0, order]:
        if not kept or overlaps(box[None], np.stack(kept)).max() <= OVERLAP:
            kept.append(box)
    return np.stack(kept) if kept else np.zeros((0, 4), np.float32)


def overlaps(first: Array, second: Array) -> Array:
    """Intersection over union of every two boxes, ``[m, 4]`` and ``[n, 4]`` to ``[m, n]``."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=-1) for boxes in (first, second)]
    union: Array = areas[0][:, None] + areas[1][None] - shared
    return np.where(union > 0, shared / np.maximum(union, 1e-12), 0.0)


def _cosine(a: Array, b: Array) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))


MODELS = {
    "squeezenet": Model(
        "SqueezeNet 1.1",
        "squeezenet/squeezenet1.1_fp32.onnx",
        "imagenet-caffe",
        VIEWS,
        ("top-1 agreement", "mean cosine"),
        same_class,
        0.975,
    ),
    "twinlitenet": Model(
        "TwinLiteNet",
        "twinlitenet/best.onnx",
        "twinlitenet",
        1,
        ("mean IoU of masks", "IoU of drivable area", "IoU of lane lines"),
        same_masks,
    ),
    "ultraface": Model(
        "UltraFace RFB-320",
        "ultraface/version-RFB-320.onnx",
        "ultraface",
        VIEWS,
        ("F1 of faces", "faces found", "mean IoU of boxes"),
        same_faces,
    ),
}
