"""Reads samples from Parquet and Arrow files, a batch of rows at a time.

Hugging Face ``datasets`` writes Arrow streams (``save_to_disk``) and Parquet; pyarrow alone reads both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.calibrate.data.reading import Found, refusal
from edgebig.calibrate.data.records import Records
from edgebig.errors import CalibrationError, MissingExtra

PARQUET = frozenset({".parquet"})
ARROW = frozenset({".arrow"})

_ROWS = 16
_BUFFER = 1 << 20
_FILE_MAGIC = b"ARROW1"
_STREAM_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_SPLITS = ("calibration", "train", "validation", "test")


def dataset_files(folder: Path) -> tuple[str, list[Path]] | None:
    """Name and files of what ``datasets`` wrote with ``save_to_disk``; ``None`` if the folder is no such.

    Of several splits, ``calibration`` is taken, else ``train``, ``validation``, ``test``, or the first.

    Raises:
        CalibrationError: its index is damaged, or it is of a version that kept a selection apart.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = [str(s) for s in _json(folder / "dataset_dict.json").get("splits", [])]
        chosen = next((s for s in (*_SPLITS, *splits) if s in splits), None)
        found = dataset_files(folder / chosen) if chosen else None
        if found is None:
            raise CalibrationError(f"calibration data: the dataset {folder} holds no split")
        return f"{folder.name}, split {chosen}", found[1]
    if not (folder / "state.json").is_file() or not (folder / "dataset_info.json").is_file():
        return None
    state = _json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise CalibrationError(
            f"calibration data: the dataset {folder} keeps a selection of rows apart: "
            "call flatten_indices() and save it again"
        )
    return folder.name, [folder / str(file["filename"]) for file in state.get("_data_files", [])]


def read_table(path: Path, name: str, records: Records) -> Iterator[Found]:
    """The samples of a Parquet or Arrow file. Memory holds some rows of Parquet, or one batch of an Arrow file.

    Raises:
        CalibrationError: damaged, cut short, or without columns that the model takes.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra("data", "pyarrow") from error
    index = 0
    try:
        with ExitStack() as stack:
            batches = _parquet if path.suffix.lower() in PARQUET else _arrow
            for batch in batches(path, name, records, stack):
                columns = {key: batch.column(key) for key in batch.schema.names}
                for row in range(batch.num_rows):
                    where = f"{name}[{index}]"
                    index += 1
                    try:
                        record = {key: _value(column, row) for key, column in columns.items()}
                    except ValueError as error:
                        yield where, refusal(where, error)
                        continue
                    yield from records.samples(record, where, path.parent)
    except (pyarrow.ArrowException, OSError, EOFError) as error:
        raise CalibrationError(
            f"calibration data: {name} is damaged or cut short after {index} rows: {str(error).splitlines()[0]}"
        ) from error


def _parquet(path: Path, name: str, records: Records, stack: ExitStack) -> Iterator[Any]:
    from pyarrow import parquet

    file = stack.enter_context(parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False))
    wanted = records.wanted(file.schema_arrow.names, name)
    yield from file.iter_batches(batch_size=_ROWS, columns=wanted)


def _arrow(path: Path, name: str, records: Records, stack: ExitStack) -> Iterator[Any]:
    import pyarrow
    from pyarrow import ipc

    # a mapped file that is cut while it is read would end the process
    file = stack.enter_context(pyarrow.OSFile(str(path)))
    is_file = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    if not is_file:
        file.seek(max(file.size() - len(_STREAM_END), 0))
        if file.read() != _STREAM_END:
            raise EOFError("its end is missing")
    file.seek(0)
    names = (ipc.open_file(file) if is_file else ipc.open_stream(file)).schema.names
    wanted = records.wanted(names, name)
    options = ipc.IpcReadOptions(included_fields=[names.index(key) for key in wanted])
    file.seek(0)
    if is_file:
        reader = stack.enter_context(ipc.open_file(file, options=options))
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        yield from stack.enter_context(ipc.open_stream(file, options=options))


def _value(column: Any, row: int) -> Any:
    """One cell: an array for numbers and lists of them, else Python's own value."""
    from pyarrow import types

    kind = getattr(column.type, "storage_type", column.type)
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        return column[row].as_py()
    return _nested(column.slice(row, 1))[0]


def _nested(column: Any) -> np.ndarray[Any, Any]:
    """``[n, ...]`` of a column of n numbers, or of n lists of one length, however deep.

    Raises:
        ValueError: the lists differ in length, or one is missing.
    """
    from pyarrow import compute, types

    column = getattr(column, "storage", column)
    if column.null_count:
        raise ValueError("a value is missing (null)")
    kind = column.type
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    lengths = compute.list_value_length(column).unique().to_pylist()
    if len(lengths) > 1:
        raise ValueError("it holds lists of different lengths")
    inner = _nested(column.flatten())
    return inner.reshape(len(column), *(lengths or [0]), *inner.shape[1:])


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrationError(f"calibration data: {path} is damaged: {error}") from error
    return found if isinstance(found, dict) else {}
