"""Samples: where calibration data comes from, read one sample at a time.

A sample is what one inference takes: an array for each input. Every one is checked against the
model's inputs before it is used, and batches are taken apart into rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.calibrate.data.batches import batch_axes, rows_of
from edgebig.calibrate.data.readers import open_files
from edgebig.calibrate.data.reading import Found, Preparers, Reading, Refusal, recording_of, refusal
from edgebig.calibrate.data.reading import Located as Located
from edgebig.calibrate.data.reading import Sample as Sample
from edgebig.errors import CalibrationError
from edgebig.spec import TensorSpec

__all__ = [
    "Located",
    "Preparers",
    "Reading",
    "Refusal",
    "Sample",
    "Samples",
    "check_sample",
    "open_samples",
    "recording_of",
]


@dataclass(frozen=True)
class Samples:
    """A stream of samples that can be read again.

    Attributes:
        source: what it is, for people and the manifest.
        read: starts a fresh iteration over pairs of where a sample comes from and the sample.
        reading: what became of the samples in the latest iteration.
    """

    source: str
    read: Callable[[], Iterator[Located]]
    reading: Reading = field(default_factory=Reading)

    def __iter__(self) -> Iterator[Located]:
        return self.read()


def open_samples(
    data: str | Path | Iterable[Mapping[str, Any]],
    inputs: Sequence[TensorSpec],
    limit: int,
    prepare: Preparers,
    *,
    carried: frozenset[str] = frozenset(),
    skip_bad: int = 0,
) -> Samples:
    """The samples in ``data``, at most ``limit`` of them.

    Args:
        data: a file or a folder of files of one kind: ``.npy``, ``.npz``, Parquet, Arrow, pictures, WAV,
            ``.jsonl`` or text; a folder that ``datasets`` wrote with ``save_to_disk``; or an iterable
            of mappings from input name to array. A generator is read once, and what was read is kept.
        inputs: the model's inputs.
        limit: largest number of samples; rows of a batch count one each.
        prepare: the model's processors.
        carried: inputs that samples may lack, since they are carried from one sample to the next.
        skip_bad: so many refused samples or files are skipped; the next one ends the reading.

    Raises:
        CalibrationError: nothing there, of an unknown kind, or (while reading) a sample that does
            not fit, or a file that changed meanwhile.
        MissingExtra: the kind of file needs a package that is not installed.
    """
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.exists():
            raise CalibrationError(f"calibration data: no such file or folder: {path}")
        source, find = open_files(path, inputs, prepare, carried)
    else:
        kept = _from_python(data, limit + skip_bad)
        source, find = f"{len(kept)} samples from Python", lambda: iter(kept)
    reading = Reading(asked=limit)
    return Samples(source, lambda: _used(_fitting(find(), inputs, carried), reading, skip_bad), reading)


def _used(found: Iterator[Found], reading: Reading, skip_bad: int) -> Iterator[Located]:
    """The samples that fit, up to the number asked, with refusals written down and counted."""
    reading.restart()
    for where, sample in found:
        reading.read += 1
        if isinstance(sample, CalibrationError):
            reading.refused.append(Refusal(where, str(sample)))
            if len(reading.refused) > skip_bad:
                if skip_bad == 0:
                    raise sample
                raise CalibrationError(f"{sample} (the samples refused before it: {skip_bad}, as many as may be)")
            continue
        reading.used += 1
        yield where, sample
        if reading.used == reading.asked:
            return


def _from_python(data: Iterable[Mapping[str, Any]], count: int) -> list[Found]:
    kept: list[Found] = []
    for index, sample in enumerate(islice(data, count) if isinstance(data, Iterable) else [data]):
        if isinstance(data, Mapping) or not isinstance(sample, Mapping):
            found = "" if isinstance(data, Mapping) else f" of {type(sample).__name__} (sample {index})"
            raise CalibrationError(
                "calibration data: needs a path, or an iterable of mappings from input name to array, "
                f"found {type(data).__name__}{found}"
            )
        where = f"sample {index}"
        try:
            kept.append((where, {k: np.asarray(v) for k, v in sample.items()}))
        except ValueError as error:
            kept.append((where, refusal(where, error)))
    return kept


def _fitting(samples: Iterator[Found], inputs: Sequence[TensorSpec], carried: frozenset[str]) -> Iterator[Found]:
    """The samples' rows that fit the inputs; the others as refusals."""
    axes = batch_axes(inputs)
    for where, found in samples:
        if isinstance(found, CalibrationError):
            yield where, found
            continue
        try:
            _check_form(where, found, inputs, carried)
            # ONNX Runtime reads memory as it is: a big-endian file's arrays need the machine's byte order
            named = ((s.name, found[s.name]) for s in inputs if s.name in found)
            whole = {name: a.astype(a.dtype.newbyteorder("="), copy=False) for name, a in named}
            rows = list(rows_of(where, whole, axes))
        except CalibrationError as error:
            yield where, error
            continue
        for row_where, row in rows:
            yield row_where, _not_finite(row_where, row) or row


def check_sample(where: str, sample: Sample, inputs: Sequence[TensorSpec]) -> None:
    """Refuses a sample that does not fit the inputs or is not finite.

    Args:
        where: names the sample.
        sample: arrays by input.
        inputs: the model's inputs.

    Raises:
        CalibrationError: it names the sample, the input, what was expected and what was found.
    """
    _check_form(where, sample, inputs, frozenset())
    problem = _not_finite(where, sample)
    if problem is not None:
        raise problem


def _check_form(where: str, sample: Sample, inputs: Sequence[TensorSpec], carried: frozenset[str]) -> None:
    for spec in inputs:
        begin = f"calibration sample {where}: input {spec.name!r}"
        if spec.name not in sample:
            if spec.name in carried:
                continue
            raise CalibrationError(f"{begin} is missing: found {', '.join(sample) or 'nothing'}")
        array = sample[spec.name]
        if array.dtype.name != spec.dtype:
            raise CalibrationError(f"{begin} needs dtype {spec.dtype}, found {array.dtype.name}")
        fits = len(array.shape) == len(spec.shape) and all(
            d == n for d, n in zip(spec.shape, array.shape, strict=True) if isinstance(d, int)
        )
        if not fits:
            expected = str(spec).split(": ", 1)[1]
            raise CalibrationError(f"{begin} needs {expected}, found {'x'.join(map(str, array.shape)) or 'a scalar'}")


def _not_finite(where: str, sample: Sample) -> CalibrationError | None:
    for name, array in sample.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return CalibrationError(
                f"calibration sample {where}: input {name!r} holds NaN or infinity: remove or mend that sample"
            )
    return None
