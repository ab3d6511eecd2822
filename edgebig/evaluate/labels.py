"""Labels as people write them -> what a metric takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.errors import EvaluationError, MissingExtra
from edgebig.evaluate.boxes import Boxes
from edgebig.evaluate.item import Array
from edgebig.evaluate.metric import Need


@dataclass(frozen=True)
class ClassNames:
    """The names of the classes, in the order of the model's scores.

    Attributes:
        names: one for each class.
        origin: where they come from, for messages.
    """

    names: tuple[str, ...]
    origin: str

    def number(self, label: str, where: str) -> int:
        """The class of that name, or of that number.

        Raises:
            EvaluationError: there is none.
        """
        if label in self.names:
            return self.names.index(label)
        if label.isdecimal() and int(label) < len(self.names):
            return int(label)
        known = ", ".join(self.names[:6]) + (", …" if len(self.names) > 6 else "")
        raise EvaluationError(
            f"{where}: the label {label!r} is none of the {len(self.names)} classes of {self.origin}: {known}"
        )


def typed_label(raw: Any, where: str, need: Need, names: ClassNames | None) -> Any:
    """The label in the form that a metric takes.

    Args:
        raw: as it was read: a number, text, list, array, or a path where the label is a file.
        where: names the label's file, and its line where it has one.
        need: what the metric takes.
        names: the model's classes, where they are known.

    Returns:
        ``class``: a number, or int64 ``[n]`` for tokens; ``text``: a list of references; ``number``: a float;
        ``mask``: int64 ``[height, width]``; ``boxes``: :class:`~edgebig.evaluate.boxes.Boxes`; ``tokens``: int64
        ``[n]``; ``reference``: arrays by output; ``any``: ``raw`` itself, a picture's pixels where it is a path.

    Raises:
        EvaluationError: it is of another form, or names no class of the model.
    """
    if need == "class":
        return _class(raw, where, names)
    if need == "text":
        return _texts(raw, where)
    if need == "number":
        return _number(raw, where)
    if need == "mask":
        return _mask(raw, where)
    if need == "boxes":
        return _boxes(raw, where, names)
    if need == "tokens":
        return _integers(raw, where)
    if need == "reference" and not isinstance(raw, Mapping):
        raise _wrong(where, "arrays by output's name", raw)
    return read_mask(raw, where) if isinstance(raw, Path) else raw


def read_mask(path: Path, where: str) -> Array:
    """A PNG's class numbers, int64 ``[height, width]``: the indices of a palette, or gray values.

    Raises:
        EvaluationError: it cannot be read, or is in colour.
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("vision", "pillow") from error
    try:
        with Image.open(path) as image:
            if image.mode not in {"P", "L", "1"} and not image.mode.startswith("I"):
                raise EvaluationError(f"{where}: a mask holds class numbers (gray or palette), found {image.mode}")
            return np.asarray(image).astype(np.int64)
    except OSError as error:
        raise EvaluationError(f"{where}: cannot read the mask: {error.strerror or error}") from error


def _class(raw: Any, where: str, names: ClassNames | None) -> Any:
    if isinstance(raw, Mapping) and "scores" in raw:
        return int(np.argmax(raw["scores"]))
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        if names is not None and any(isinstance(v, str) for v in raw):
            return np.array([names.number(v, where) if isinstance(v, str) else v for v in raw], np.int64)
        return _integers(raw, where)
    if isinstance(raw, np.ndarray) and raw.size != 1:
        return _integers(raw, where)
    if isinstance(raw, np.ndarray):
        raw = raw.reshape(-1)[0].item()
    if isinstance(raw, str) and names is not None:
        return names.number(raw.strip(), where)
    if isinstance(raw, str) and raw.strip().isdecimal():
        return int(raw)
    if isinstance(raw, bool) or not isinstance(raw, int | np.integer):
        what = "a class number" if names is None else f"one of the classes of {names.origin}"
        raise _wrong(where, what, raw)
    if raw < 0 or (names is not None and raw >= len(names.names)):
        count = f" of {len(names.names)}" if names is not None else ""
        raise EvaluationError(f"{where}: there is no class {raw}{count}: classes count from 0")
    return int(raw)


def _texts(raw: Any, where: str) -> list[str]:
    texts = [raw] if isinstance(raw, str) else raw
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise _wrong(where, "a text, or a list of them", raw)
    return texts


def _number(raw: Any, where: str) -> float:
    try:
        value = float(raw.reshape(-1)[0] if isinstance(raw, np.ndarray) and raw.size == 1 else raw)
    except (TypeError, ValueError) as error:
        raise _wrong(where, "a number", raw) from error
    if not np.isfinite(value):
        raise _wrong(where, "a finite number", raw)
    return value


def _mask(raw: Any, where: str) -> Array:
    array = read_mask(raw, where) if isinstance(raw, Path) else np.asarray(raw)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise _wrong(where, "a map of classes [height, width]", raw)
    return array.astype(np.int64)


def _boxes(raw: Any, where: str, names: ClassNames | None) -> Boxes:
    if not isinstance(raw, Mapping) or not {"boxes", "classes"} <= raw.keys():
        raise _wrong(where, "boxes of a COCO file", raw)
    classes = [_class(c, where, names) for c in raw["classes"]]
    corners = np.asarray(raw["boxes"], np.float64).reshape(-1, 4)
    return Boxes(corners, np.asarray(classes, np.int64))


def _integers(raw: Any, where: str) -> Array:
    try:
        array = np.asarray(raw)
    except ValueError as error:
        raise _wrong(where, "a list of whole numbers", raw) from error
    if array.dtype.kind not in "iu" or array.size == 0:
        raise _wrong(where, "a list of whole numbers", raw)
    return array.reshape(-1).astype(np.int64)


def _wrong(where: str, needed: str, raw: Any) -> EvaluationError:
    found = f"{raw!r}"
    return EvaluationError(f"{where}: the label must be {needed}, found {found[:80]}{'…' if len(found) > 80 else ''}")
