"""Which files of a calibration set are read, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgebig.calibrate.data import arrays
from edgebig.calibrate.data.files import Files
from edgebig.calibrate.data.reading import Found, Preparers, pieces, prepared, refusal
from edgebig.calibrate.data.records import Records, read_lines
from edgebig.calibrate.data.tables import ARROW, PARQUET, dataset_files, read_table
from edgebig.errors import CalibrationError
from edgebig.spec import TensorSpec

ARRAYS = frozenset({".npy", ".npz"})
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
SOUNDS = frozenset({".wav"})
RECORDS = frozenset({".jsonl", ".ndjson"})
TEXTS = frozenset({".txt"})

Reader = Callable[[Path, str], Iterator[Found]]


def open_files(
    path: Path, inputs: Sequence[TensorSpec], prepare: Preparers, carried: frozenset[str]
) -> tuple[str, Callable[[], Iterator[Found]]]:
    """What a file or folder is called, and what starts reading it.

    A folder's files are read in the order of their paths. Where it holds files of several kinds, those
    of one kind are read: arrays before tables, pictures, recordings, ``.jsonl`` and text, so that
    captions and labels beside pictures do no harm.

    Raises:
        CalibrationError: it is empty, holds nothing that can be read, or needs a processor that the model lacks.
    """
    dataset = dataset_files(path) if path.is_dir() else None
    source, files = (dataset[0], Files.of(path, dataset[1])) if dataset else (path.name, Files.under(path))
    if not files.states:
        raise CalibrationError(f"calibration data: the folder {path} is empty")
    records = Records(inputs, prepare)
    for suffixes, reader in (
        (ARRAYS, lambda: partial(_arrays, inputs, carried)),
        (PARQUET | ARROW, lambda: partial(_table, records)),
        (PICTURES, lambda: _pictures(path, prepare)),
        (SOUNDS, lambda: _sounds(path, prepare)),
        (RECORDS, lambda: partial(_lines, records)),
        (TEXTS, lambda: _texts(path, prepare)),
    ):
        chosen = [file for file in files.states if file.suffix.lower() in suffixes]
        if chosen:
            return source, partial(files.read, chosen, reader())
    found = sorted({f.suffix.lower() or "no suffix" for f in files.states})
    raise CalibrationError(
        f"calibration data: {path} holds files of {', '.join(found[:8])}; what can be read is .npy, .npz, "
        ".parquet, .arrow, pictures (.jpg, .png, …), .wav, .jsonl and .txt"
    )


def _arrays(inputs: Sequence[TensorSpec], carried: frozenset[str], file: Path, name: str) -> Iterator[Found]:
    for index, sample in enumerate(arrays.read_samples(file, inputs, carried)):
        yield f"{name}[{index}]", sample


def _table(records: Records, file: Path, name: str) -> Iterator[Found]:
    return read_table(file, name, records)


def _lines(records: Records, file: Path, name: str) -> Iterator[Found]:
    return read_lines(file, name, records)


def _pictures(path: Path, prepare: Preparers) -> Reader:
    make = _needed(
        prepare.picture,
        f"{path} holds pictures, and the model brings no image processor: add a preprocess section to the recipe",
    )

    def read(file: Path, name: str) -> Iterator[Found]:
        yield name, prepared(make, file, name)

    return read


def _sounds(path: Path, prepare: Preparers) -> Reader:
    make = _needed(
        prepare.sound,
        f"{path} holds recordings, and the model brings no feature extractor: add an audio section to the recipe",
    )

    return lambda file, name: pieces(make, file, name)


def _texts(path: Path, prepare: Preparers) -> Reader:
    make = _needed(prepare.text, f"{path} is text, and the model brings no tokenizer: give arrays (.npz) instead")

    def read(file: Path, name: str) -> Iterator[Found]:
        try:
            with file.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        where = f"{name}:{number}"
                        yield where, prepared(make, line.strip(), where)
        except UnicodeDecodeError as error:
            raise refusal(str(file), f"it is not UTF-8 text: {error.reason}") from error

    return read


def _needed(make: Any, otherwise: str) -> Any:
    if make is None:
        raise CalibrationError(f"calibration data: {otherwise}")
    return make
