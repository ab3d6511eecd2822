"""Records: one object of a ``.jsonl`` file or one row of a table, to samples.

A key that is an input's name holds its numbers. ``text`` or ``sentence`` goes through the model's
tokenizer, ``image`` through its image processor and ``audio`` through its feature extractor; a record
may hold several of these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from edgebig.calibrate.data.batches import with_batch_axis
from edgebig.calibrate.data.reading import Array, Found, Preparers, Sample, pieces, prepared, refusal
from edgebig.errors import CalibrationError
from edgebig.spec import TensorSpec

T = TypeVar("T")

TEXT_KEYS = ("text", "sentence")
PICTURE_KEY = "image"
SOUND_KEY = "audio"
KEYS = (*TEXT_KEYS, PICTURE_KEY, SOUND_KEY)


@dataclass(frozen=True)
class Records:
    """Makes samples of records.

    Attributes:
        inputs: the model's inputs.
        prepare: the model's processors.
    """

    inputs: Sequence[TensorSpec]
    prepare: Preparers

    def wanted(self, keys: Sequence[str], where: str) -> list[str]:
        """Those of a record's keys that samples are made of.

        Raises:
            CalibrationError: there is none.
        """
        names = {spec.name for spec in self.inputs}
        found = [key for key in keys if key in names or key in KEYS]
        if not found:
            raise refusal(
                where,
                f"found {', '.join(keys) or 'nothing'}, expected the inputs {', '.join(sorted(names))}, "
                "or text, sentence, image or audio",
            )
        return found

    def samples(self, record: Mapping[str, Any], where: str, folder: Path) -> Iterator[Found]:
        """The sample of a record, or the samples where it holds a recording.

        Args:
            record: values by key: numbers in nested lists or arrays, texts, paths, or a mapping with
                ``bytes`` or ``path`` as tables keep files.
            where: names the record.
            folder: paths of pictures and recordings are relative to it.
        """
        try:
            sample = self._sample(record, where, folder)
            sound = record.get(SOUND_KEY)
            if sound is None or isinstance(sound, list | np.ndarray):
                yield where, sample
                return
            make = _need(self.prepare.sound, where, "feature extractor")
            file = _file(sound, where, folder)
        except CalibrationError as error:
            yield where, error
            return
        for piece_where, piece in pieces(make, file, where):
            yield piece_where, piece if isinstance(piece, CalibrationError) else {**sample, **piece}

    def _sample(self, record: Mapping[str, Any], where: str, folder: Path) -> Sample:
        specs = {spec.name: spec for spec in self.inputs}
        sample: Sample = {}
        numbers: Sample = {}
        for key in self.wanted(list(record), where):
            value = record[key]
            if key in specs and not isinstance(value, str | Mapping):
                numbers[key] = _numbers(value, specs[key], where)
            elif key in TEXT_KEYS:
                make = _need(self.prepare.text, where, "tokenizer")
                sample.update(_taken(make, _text(value, key, where), where))
            elif key == PICTURE_KEY:
                make = _need(self.prepare.picture, where, "image processor")
                sample.update(_taken(make, _file(value, where, folder), where))
            elif key != SOUND_KEY:
                raise refusal(where, f"the input {key!r} needs numbers, found {value!r}"[:200])
        return {**sample, **with_batch_axis(numbers, self.inputs)}


def read_lines(path: Path, name: str, records: Records) -> Iterator[Found]:
    """The samples of a ``.jsonl`` file, an object on each line."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{name}:{number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                yield where, refusal(where, f"no JSON object on this line: {error}")
                continue
            if not isinstance(record, dict):
                yield where, refusal(where, f"expected a JSON object, found {type(record).__name__}")
                continue
            yield from records.samples(record, where, path.parent)


def _need(make: Callable[[Any], T] | None, where: str, processor: str) -> Callable[[Any], T]:
    if make is None:
        raise refusal(where, f"the model brings no {processor} for what it holds")
    return make


def _taken(make: Callable[[Any], Sample], item: Any, where: str) -> Sample:
    made = prepared(make, item, where)
    if not isinstance(made, CalibrationError):
        return made
    # libraries name bytes by their address
    raise refusal(where, "its picture is damaged or of an unknown format") if isinstance(item, BytesIO) else made


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise refusal(where, f"{key!r} needs text, found {value!r}"[:200])
    return value.strip()


def _file(value: Any, where: str, folder: Path) -> Path | IO[bytes]:
    if isinstance(value, Mapping):
        data = value.get("bytes")
        if data:
            return BytesIO(data)
        value = value.get("path")
    if isinstance(value, bytes):
        return BytesIO(value)
    if not isinstance(value, str) or not value:
        raise refusal(where, f"a file is given by its path, found {value!r}"[:200])
    return folder / value


def _numbers(value: Any, spec: TensorSpec, where: str) -> Array:
    """The value in the input's dtype, if it can be had without losing more than float precision."""
    begin = f"the input {spec.name!r}"
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise refusal(where, f"{begin} holds lists of different lengths") from error
    if array.dtype.kind not in "biuf":
        raise refusal(where, f"{begin} needs numbers, found {array.dtype.name} values")
    with np.errstate(all="ignore"):
        cast = array.astype(spec.dtype)
    if cast.dtype.kind != "f" and not np.array_equal(cast, array):
        raise refusal(where, f"{begin} needs {spec.dtype}, found numbers that do not fit it")
    return cast
