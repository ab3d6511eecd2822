"""Finds the labels of an evaluation set: beside its files, in lists, in its records, or in its folders' names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebig.errors import EvaluationError
from edgebig.evaluate import label_lists, label_records
from edgebig.evaluate.label_lists import Found

MEDIA = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".wav"})
_LISTS = tuple(f"{n}.{s}" for n in ("labels", "metadata", "transcripts") for s in ("csv", "jsonl"))
_ARRAYS = frozenset({".npy", ".npz"})
_TABLES = frozenset({".parquet", ".arrow"})
_LINES = frozenset({".jsonl", ".ndjson"})


@dataclass(frozen=True)
class Labels:
    """The labels of an evaluation set.

    Attributes:
        source: what they were read from, for people.
        data: the file or folder of the samples.
        found: the label and where it stands, by what it belongs to: a file below ``data``
            (``cat/1.jpg``), a row (``a.npz[3]``, ``a.parquet[3]``) or a line (``a.jsonl:4``).
        kind: what they look like: ``class``, ``text``, ``number``, ``mask``, ``boxes``, or ``reference``.
        folders: the class-named folders in sorted order, where these are the labels.
    """

    source: str
    data: Path
    found: Mapping[str, Found]
    kind: str
    folders: tuple[str, ...] = ()


def read_labels(path: Path, outputs: tuple[str, ...] = ()) -> Labels | None:
    """The labels of an evaluation set; ``None`` where it has none.

    A folder is read in this order: a COCO file (``annotations.json`` or ``instances*.json``); a list
    (``labels``, ``metadata`` or ``transcripts``, as ``.csv`` or ``.jsonl``); ``masks/`` beside ``images/``; the
    records and arrays in it; pictures and recordings in class-named folders.

    Args:
        path: the file or folder.
        outputs: names of the model's outputs: arrays of these names in an ``.npz`` are labels too.

    Raises:
        EvaluationError: no such path, or a label list is damaged or names a file that is not there.
        MissingExtra: pyarrow is needed and not installed.
    """
    if not path.exists():
        raise EvaluationError(f"evaluation data: no such file or folder: {path}")
    if path.is_file():
        if path.name in _LISTS and path.suffix == ".csv":
            return _of_list(path.parent, path)
        return _of_files(path, [path], path.name, outputs)
    coco = next((f for f in sorted(path.glob("*.json")) if _is_coco(f)), None)
    if coco is not None:
        folder = path / "images" if (path / "images").is_dir() else path
        return Labels(coco.name, folder, label_lists.coco(coco, folder), "boxes")
    listed = next((path / name for name in _LISTS if (path / name).is_file()), None)
    if listed is not None and _has_media(path):
        return _of_list(path, listed)
    if (path / "masks").is_dir() and (path / "images").is_dir():
        return Labels("masks", path / "images", label_lists.masks(path / "images", path / "masks"), "mask")
    files = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith("."))
    readable = [f for f in files if f.suffix.lower() in _ARRAYS | _TABLES] or (
        [] if _has_media(path) else [f for f in files if f.suffix.lower() in _LINES]
    )
    if readable:
        return _of_files(path, readable, path.name, outputs)
    return _of_folders(path, [f for f in files if f.suffix.lower() in MEDIA])


def _of_list(folder: Path, listed: Path) -> Labels:
    found = label_lists.read_list(listed, folder)
    return Labels(listed.name, folder, found, _kind(next(iter(found.values()), None)))


def _of_files(root: Path, files: list[Path], source: str, outputs: tuple[str, ...]) -> Labels | None:
    found: dict[str, Found] = {}
    kind = None
    for file in files:
        name = file.name if file == root else file.relative_to(root).as_posix()
        suffix = file.suffix.lower()
        if suffix in _ARRAYS:
            labels = label_records.of_arrays(file, name, outputs)
        elif suffix in _TABLES:
            labels = label_records.of_table(file, name)
        elif suffix in _LINES:
            labels = label_records.of_lines(file, name)
        else:
            labels = {}
        found.update(labels)
        kind = kind or (_kind(next(iter(labels.values()))) if labels else None)
    return Labels(source, root, found, kind) if kind is not None else None


def _of_folders(root: Path, files: list[Path]) -> Labels | None:
    outside = [f for f in files if f.parent == root]
    if not files or len(outside) == len(files):
        return None
    if outside:
        raise EvaluationError(
            f"evaluation data: {outside[0].relative_to(root)} lies beside the class-named folders of {root}: "
            "put it into one, or list every file with its label in labels.csv"
        )
    names = {f: f.relative_to(root).parts[0] for f in files}
    found = {f.relative_to(root).as_posix(): (name, f.relative_to(root).as_posix()) for f, name in names.items()}
    return Labels(f"the folders of {root.name}", root, found, "class", tuple(sorted(set(names.values()))))


def _has_media(folder: Path) -> bool:
    return any(f.suffix.lower() in MEDIA for f in folder.rglob("*"))


def _is_coco(file: Path) -> bool:
    """Whether it is a COCO file; of other names only those that say so are opened, as datasets bring JSON too."""
    if file.stem != "annotations" and not file.stem.startswith("instances"):
        return False
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{file}: not a COCO file: {error}") from error
    if not isinstance(data, dict) or not {"images", "annotations", "categories"} <= data.keys():
        raise EvaluationError(f"{file}: not a COCO file: it needs images, annotations and categories")
    return True


def _kind(found: Found | None) -> str:
    """What a label looks like. Text that has a space is a text, else the name of a class."""
    raw: Any = found[0] if found is not None else 0
    if isinstance(raw, Mapping):
        return "boxes" if "boxes" in raw else "reference"
    if isinstance(raw, Path) or getattr(raw, "ndim", 0) >= 2:
        return "mask"
    if isinstance(raw, str):
        return "text" if " " in raw.strip() else "class"
    if isinstance(raw, list) and raw and isinstance(raw[0], str):
        return "text"
    is_float = isinstance(raw, float) or getattr(getattr(raw, "dtype", None), "kind", "") == "f"
    return "number" if is_float else "class"
