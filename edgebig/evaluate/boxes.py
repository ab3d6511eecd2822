"""Mean average precision of boxes, by pycocotools: the mean over classes and IoU from 0.5 to 0.95."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgebig.errors import EvaluationError
from edgebig.evaluate.item import Array, Item, Outputs
from edgebig.evaluate.metric import Metric, missing_library
from edgebig.evaluate.outputs import shape_of, single

_FEW = 50


@dataclass(frozen=True)
class Boxes:
    """Boxes of one picture.

    Attributes:
        corners: float64 ``[n, 4]``: left, top, right, bottom as shares of the picture's width and height.
        classes: int64 ``[n]``.
        scores: float64 ``[n]``; of found boxes.
    """

    corners: Array
    classes: Array
    scores: Array | None = None


def mean_average_precision() -> Metric:
    """COCO's mAP of models with the outputs ``logits`` and ``pred_boxes``, as transformers' detectors have them.

    ``logits`` is ``[1, boxes, classes + 1]``, the last class is "none"; ``pred_boxes`` is ``[1, boxes, 4]``:
    centre x, y, width and height as shares of the picture. IoU does not change when an axis is scaled, so
    shares serve as well as pixels.

    Raises:
        MissingExtra: pycocotools is not installed.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise missing_library(error) from error
    return Metric("map", "boxes", True, "fraction", _measure, _total, sums=False, resamples=_FEW)


def _measure(item: Item, pieces: Sequence[Outputs]) -> tuple[Boxes, Boxes]:
    outputs = single(pieces, "map", item.where)
    if not {"logits", "pred_boxes"} <= outputs.keys():
        raise EvaluationError(
            f"{item.where}: map reads the outputs logits and pred_boxes, the model has {', '.join(outputs)}: "
            "give a function with --metric file.py:function"
        )
    logits, boxes = outputs["logits"].astype(np.float64), outputs["pred_boxes"].astype(np.float64)
    if logits.ndim != 3 or boxes.shape != (1, logits.shape[1], 4) or logits.shape[0] != 1 or logits.shape[2] < 2:
        raise EvaluationError(
            f"{item.where}: map takes logits [1, boxes, classes + 1] and pred_boxes [1, boxes, 4], "
            f"found {shape_of(logits)} and {shape_of(boxes)}"
        )
    raised = np.exp(logits[0] - logits[0].max(axis=1, keepdims=True))
    chances = (raised / raised.sum(axis=1, keepdims=True))[:, :-1]
    if item.label.classes.size and item.label.classes.max() >= chances.shape[1]:
        raise EvaluationError(
            f"{item.where}: the label {item.label.classes.max()} is none of the model's {chances.shape[1]} classes"
        )
    centre, half = boxes[0, :, :2], boxes[0, :, 2:] / 2
    corners = np.concatenate([centre - half, centre + half], axis=1)
    return item.label, Boxes(corners, chances.argmax(axis=1), chances.max(axis=1))


def _total(kept: list[tuple[Boxes, Boxes]]) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [{"id": number} for number in range(len(kept))]
    true = [row for number, (label, _) in enumerate(kept) for row in _rows(number, label)]
    found = [row for number, (_, boxes) in enumerate(kept) for row in _rows(number, boxes)]
    if not true:
        raise EvaluationError("map needs one labelled box or more")
    classes = sorted({row["category_id"] for row in true})
    for number, row in enumerate(true, start=1):
        row |= {"id": number, "iscrowd": 0}
    if not found:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # it reports on standard output
        truth = COCO()
        truth.dataset = {"images": images, "annotations": true, "categories": [{"id": c} for c in classes]}
        truth.createIndex()
        truth.dataset["info"] = {}
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def _rows(image: int, boxes: Boxes) -> list[dict[str, Any]]:
    scores = boxes.scores if boxes.scores is not None else np.ones(len(boxes.classes))
    return [
        {
            "image_id": image,
            "category_id": int(name),
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "score": float(score),
        }
        for (left, top, right, bottom), name, score in zip(boxes.corners.tolist(), boxes.classes, scores, strict=True)
    ]
