"""Labels in files beside the samples: lists of CSV or JSON lines, COCO's annotations, masks."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgebig.errors import EvaluationError

Found = tuple[Any, str]
"""A label as it was read, and where it stands."""

LABEL_KEYS = (
    "label", "labels", "references", "reference", "translation", "transcription", "transcript", "score", "similarity",
)  # fmt: skip
_FILE_KEYS = ("file", "file_name", "path", "image", "audio")


def read_list(listed: Path, folder: Path) -> dict[str, Found]:
    """Labels by file below ``folder`` of a list with the columns ``file`` and ``label``, or keys in JSON lines.

    Raises:
        EvaluationError: a line lacks one of them, names a file that is not there, or one named before.
    """
    found: dict[str, Found] = {}
    root = folder.resolve()
    for number, row in _csv(listed) if listed.suffix == ".csv" else json_lines(listed):
        where = f"{listed.name}:{number}"
        file = next((row[k] for k in _FILE_KEYS if row.get(k)), None)
        keys = [k for k in (*LABEL_KEYS, "text") if row.get(k) not in (None, "")]
        if not isinstance(file, str) or not keys:
            raise EvaluationError(
                f"{where}: a line needs file and label, found {', '.join(map(str, row)) or 'nothing'}"
            )
        path = folder / file
        if not path.is_file() or not path.resolve().is_relative_to(root):
            raise EvaluationError(f"{where}: no such file in {folder}: {file}")
        name = path.resolve().relative_to(root).as_posix()
        if name in found:
            raise EvaluationError(f"{where}: {file} has a label already at {found[name][1]}")
        found[name] = row[keys[0]], where
    return found


def masks(images: Path, folder: Path) -> dict[str, Found]:
    """A mask for each picture, by the picture's name below ``images``: the ``.png`` of the same stem in ``folder``.

    Raises:
        EvaluationError: a picture has no mask.
    """
    found: dict[str, Found] = {}
    for picture in sorted(f for f in images.rglob("*") if f.is_file() and not f.name.startswith(".")):
        name = picture.relative_to(images)
        mask = (folder / name).with_suffix(".png")
        if not mask.is_file():
            raise EvaluationError(f"evaluation data: the picture {name} has no mask {mask}")
        found[name.as_posix()] = mask, f"{folder.name}/{mask.relative_to(folder).as_posix()}"
    return found


def coco(file: Path, folder: Path) -> dict[str, Found]:
    """Boxes by picture below ``folder`` of a COCO file. Pictures without boxes have empty labels; crowds are left out.

    Raises:
        EvaluationError: an entry is incomplete, or names a picture or category that is not there.
    """
    data = json.loads(file.read_text(encoding="utf-8"))
    try:
        names = {category["id"]: str(category["name"]) for category in data["categories"]}
        images = {image["id"]: image for image in data["images"]}
        boxes: dict[Any, dict[str, list[Any]]] = {number: {"boxes": [], "classes": []} for number in images}
        for index, entry in enumerate(data["annotations"]):
            where = f"{file.name}: annotations[{index}]"
            if entry.get("iscrowd"):
                continue
            if entry["image_id"] not in images or entry["category_id"] not in names:
                raise EvaluationError(f"{where}: its image_id or category_id is not in the file")
            image = images[entry["image_id"]]
            left, top, width, height = (float(v) for v in entry["bbox"])
            wide, high = float(image["width"]), float(image["height"])
            label = boxes[entry["image_id"]]
            label["boxes"].append([left / wide, top / high, (left + width) / wide, (top + height) / high])
            label["classes"].append(names[entry["category_id"]])
        found = {
            str(image["file_name"]): (boxes[number], f"{file.name}: images[{index}]")
            for index, (number, image) in enumerate(images.items())
        }
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise EvaluationError(f"{file}: not a whole COCO file: {type(error).__name__}: {error}") from error
    missing = next((name for name in found if not (folder / name).is_file()), None)
    if missing is not None:
        raise EvaluationError(f"{found[missing][1]}: no such picture in {folder}: {missing}")
    return found


def json_lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number and object of each line that is not blank.

    Raises:
        EvaluationError: a line is no JSON object.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise EvaluationError(f"{file.name}:{number}: no JSON object on this line: {error}") from error
            if not isinstance(row, dict):
                raise EvaluationError(f"{file.name}:{number}: expected a JSON object, found {type(row).__name__}")
            yield number, row


def _csv(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            for row in rows:
                if None in row or None in row.values():
                    raise EvaluationError(f"{file.name}:{rows.line_num}: the line has not as many fields as the first")
                yield rows.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise EvaluationError(f"{file}: not a CSV file in UTF-8: {error}") from error
