"""Labels that stand with their samples: in JSON lines, tables and arrays."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.errors import EvaluationError, MissingExtra
from edgebig.evaluate.label_lists import LABEL_KEYS, Found, json_lines

_ARRAY_KEYS = ("labels", "label")
_PAIR = ("sentence1", "sentence2")


def of_lines(file: Path, name: str) -> dict[str, Found]:
    """Labels by line (``a.jsonl:4``); empty where the first object has none.

    Raises:
        EvaluationError: a line is no JSON object, or lacks the label that the first has.
    """
    found: dict[str, Found] = {}
    key: str | None = None
    for number, row in json_lines(file):
        where = f"{name}:{number}"
        if key is None:
            key = _key(row)
            if key is None:
                return {}
        if row.get(key) is None:
            raise EvaluationError(f"{where}: it has no {key!r}, as the first line has: found {', '.join(row)}")
        found[where] = row[key], where
    return found


def of_table(file: Path, name: str) -> dict[str, Found]:
    """Labels by row (``a.parquet[4]``) of a Parquet or Arrow file; empty where it has no column of labels.

    Raises:
        EvaluationError: it is damaged, or a label is null.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise MissingExtra("data", "pyarrow") from error
    try:
        if file.suffix.lower() == ".parquet":
            key = _key(dict.fromkeys(parquet.read_schema(file).names, 0))
            column = parquet.read_table(file, columns=[key]).column(key) if key else None
        else:
            with file.open("rb") as stream:
                is_file = stream.read(6) == b"ARROW1"
                stream.seek(0)
                table = (ipc.open_file(stream) if is_file else ipc.open_stream(stream)).read_all()
            key = _key(dict.fromkeys(table.schema.names, 0))
            column = table.column(key) if key else None
    except (pyarrow.ArrowException, OSError) as error:
        raise EvaluationError(f"{name} is damaged: {str(error).splitlines()[0]}") from error
    found: dict[str, Found] = {}
    for index, value in enumerate(column if column is not None else ()):
        where = f"{name}[{index}]"
        raw = value.as_py()
        if raw is None:
            raise EvaluationError(f"{where}: its {key!r} is missing (null)")
        found[where] = raw, where
    return found


def of_arrays(file: Path, name: str, outputs: tuple[str, ...]) -> dict[str, Found]:
    """Labels by index (``a.npz[4]``): the array ``labels`` of an ``.npz``, or ``a.labels.npy`` beside ``a.npy``.

    Arrays that are named as the model's outputs are a reference's answers: the label is a dictionary of them.

    Raises:
        EvaluationError: the file is damaged or holds Python objects, or the arrays differ in length.
    """
    try:
        if file.suffix.lower() == ".npy":
            beside = file.with_name(f"{file.stem}.labels.npy")
            arrays: dict[str, Any] = {"labels": np.load(beside, allow_pickle=False)} if beside.is_file() else {}
        else:
            with np.load(file, allow_pickle=False) as archive:
                wanted = [n for n in archive.files if n in (*_ARRAY_KEYS, *outputs)]
                arrays = {n: archive[n] for n in wanted}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise EvaluationError(f"{name}: its labels cannot be read: {error}") from error
    label = next((k for k in _ARRAY_KEYS if k in arrays and k not in outputs), None)
    chosen = {label: arrays[label]} if label is not None else arrays
    lengths = {n: a.shape[0] if a.ndim else 0 for n, a in chosen.items()}
    if len(set(lengths.values())) > 1:
        raise EvaluationError(
            f"{name}: its outputs differ in length: {', '.join(f'{n} {c}' for n, c in lengths.items())}"
        )
    found: dict[str, Found] = {}
    for index in range(next(iter(lengths.values()), 0)):
        where = f"{name}[{index}]"
        if label is None:
            found[where] = {n: a[index : index + 1] for n, a in arrays.items()}, where
        else:
            value = arrays[label][index]
            found[where] = value if value.ndim else value.item(), where
    return found


def _key(row: Any) -> str | None:
    key = next((k for k in LABEL_KEYS if k in row), None)
    return key or ("text" if "text" in row and "audio" in row else None)


def pairs(file: Path, name: str) -> dict[str, tuple[str, str]]:
    """The two sentences of each line or row (``sentence1`` and ``sentence2``), by where they stand; else empty.

    Raises:
        EvaluationError: a line or row lacks one of them, or the file is damaged.
        MissingExtra: pyarrow is needed and not installed.
    """
    suffix = file.suffix.lower()
    rows: list[tuple[str, Any]]
    if suffix in {".jsonl", ".ndjson"}:
        rows = [(f"{name}:{number}", row) for number, row in json_lines(file)]
    elif suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise MissingExtra("data", "pyarrow") from error
        names = [n for n in _PAIR if n in parquet.read_schema(file).names]
        rows = [(f"{name}[{i}]", r) for i, r in enumerate(parquet.read_table(file, columns=names).to_pylist())]
    else:
        return {}
    if not rows or not set(_PAIR) & set(rows[0][1]):
        return {}
    found: dict[str, tuple[str, str]] = {}
    for where, row in rows:
        left, right = (row.get(key) for key in _PAIR)
        if not isinstance(left, str) or not isinstance(right, str) or not left.strip() or not right.strip():
            raise EvaluationError(f"{where}: a pair needs the texts sentence1 and sentence2")
        found[where] = left.strip(), right.strip()
    return found
