"""Samples: where calibration data comes from, read one sample at a time.

A sample is what one inference takes: an array for each input. Every one is checked against the
model's inputs before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.calibrate import arrays
from edgebig.errors import CalibrationError, EdgebigError
from edgebig.spec import TensorSpec

Sample = dict[str, np.ndarray[Any, Any]]
Located = tuple[str, Sample]

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
TEXTS = frozenset({".txt"})
ARRAYS = frozenset({".npy", ".npz"})


@dataclass(frozen=True)
class Samples:
    """A stream of samples that can be read again.

    Attributes:
        source: what it is, for people and the manifest.
        read: starts a fresh iteration over pairs of where a sample comes from and the sample.
    """

    source: str
    read: Callable[[], Iterator[Located]]

    def __iter__(self) -> Iterator[Located]:
        return self.read()


@dataclass(frozen=True)
class Preparers:
    """How people's inputs become a sample of this model; ``None`` where it has no such processor."""

    picture: Callable[[Path], Sample] | None = None
    text: Callable[[str], Sample] | None = None


def open_samples(
    data: str | Path | Iterable[Mapping[str, Any]], inputs: Sequence[TensorSpec], limit: int, prepare: Preparers
) -> Samples:
    """The samples in ``data``, at most ``limit`` of them.

    Args:
        data: an ``.npy``, ``.npz`` or text file, a folder of ``.npy``, ``.npz`` or picture files,
            or an iterable of mappings from input name to array. A generator is read once, and what
            was read is kept.
        inputs: the model's inputs.
        limit: largest number of samples.
        prepare: the model's processors.

    Raises:
        CalibrationError: nothing there, of an unknown kind, or (while reading) a sample that does not fit.
    """
    if not isinstance(data, str | Path):
        return _from_iterable(data, inputs, limit)
    path = Path(data)
    if not path.exists():
        raise CalibrationError(f"calibration data: no such file or folder: {path}")
    files = (
        sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith(".")) if path.is_dir() else [path]
    )
    if not files:
        raise CalibrationError(f"calibration data: the folder {path} is empty")
    reader = _reader(path, files, inputs, prepare)
    return Samples(str(path.name), lambda: islice(_checked(reader(), inputs), limit))


def _reader(
    path: Path, files: Sequence[Path], inputs: Sequence[TensorSpec], prepare: Preparers
) -> Callable[[], Iterator[Located]]:
    by_kind = {kind: [f for f in files if f.suffix.lower() in kind] for kind in (ARRAYS, PICTURES, TEXTS)}
    if by_kind[ARRAYS]:
        return lambda: _array_files(by_kind[ARRAYS], inputs)
    if by_kind[PICTURES]:
        return _picture_reader(path, by_kind[PICTURES], prepare)
    if by_kind[TEXTS]:
        return _text_reader(path, by_kind[TEXTS], prepare)
    suffixes = sorted({f.suffix.lower() or "no suffix" for f in files})
    raise CalibrationError(
        f"calibration data: {path} holds files of {', '.join(suffixes[:8])}; "
        "what can be read is .npy, .npz, .txt and pictures (.jpg, .png, …)"
    )


def _array_files(files: Sequence[Path], inputs: Sequence[TensorSpec]) -> Iterator[Located]:
    for file in files:
        for index, sample in enumerate(arrays.read_samples(file, inputs)):
            yield f"{file.name}[{index}]", sample


def _picture_reader(path: Path, files: Sequence[Path], prepare: Preparers) -> Callable[[], Iterator[Located]]:
    to_sample = prepare.picture
    if to_sample is None:
        raise CalibrationError(
            f"calibration data: {path} holds pictures, and the model brings no image processor: "
            "add a preprocess section to the recipe"
        )
    return lambda: ((f.name, _prepared(to_sample, f, f.name)) for f in files)


def _text_reader(path: Path, files: Sequence[Path], prepare: Preparers) -> Callable[[], Iterator[Located]]:
    to_sample = prepare.text
    if to_sample is None:
        raise CalibrationError(
            f"calibration data: {path} is text, and the model brings no tokenizer: give arrays (.npz) instead"
        )

    def read() -> Iterator[Located]:
        for file in files:
            try:
                with file.open(encoding="utf-8") as lines:
                    for number, line in enumerate(lines, start=1):
                        if line.strip():
                            where = f"{file.name}:{number}"
                            yield where, _prepared(to_sample, line.strip(), where)
            except UnicodeDecodeError as error:
                raise CalibrationError(f"calibration data: {file} is not UTF-8 text: {error.reason}") from error

    return read


def _prepared(to_sample: Callable[[Any], Sample], item: Any, where: str) -> Sample:
    try:
        return to_sample(item)
    except CalibrationError:
        raise
    except (EdgebigError, OSError, ValueError) as error:
        raise CalibrationError(f"calibration data: {where}: {error}") from error


def _from_iterable(data: Iterable[Mapping[str, Any]], inputs: Sequence[TensorSpec], limit: int) -> Samples:
    kept = []
    for index, sample in enumerate(islice(data, limit) if isinstance(data, Iterable) else [data]):
        if isinstance(data, Mapping) or not isinstance(sample, Mapping):
            found = "" if isinstance(data, Mapping) else f" of {type(sample).__name__} (sample {index})"
            raise CalibrationError(
                "calibration data: needs a path, or an iterable of mappings from input name to array, "
                f"found {type(data).__name__}{found}"
            )
        kept.append({k: np.asarray(v) for k, v in sample.items()})
    located = [(f"sample {i}", sample) for i, sample in enumerate(kept)]
    return Samples(f"{len(kept)} samples from Python", lambda: _checked(iter(located), inputs))


def _checked(samples: Iterator[Located], inputs: Sequence[TensorSpec]) -> Iterator[Located]:
    for where, sample in samples:
        check_sample(where, sample, inputs)
        # ONNX Runtime reads memory as it is: a big-endian file's arrays need the machine's byte order
        yield where, {s.name: (a := sample[s.name]).astype(a.dtype.newbyteorder("="), copy=False) for s in inputs}


def check_sample(where: str, sample: Sample, inputs: Sequence[TensorSpec]) -> None:
    """Refuses a sample that does not fit the inputs or is not finite.

    Raises:
        CalibrationError: it names the sample, the input, what was expected and what was found.
    """
    for spec in inputs:
        begin = f"calibration sample {where}: input {spec.name!r}"
        if spec.name not in sample:
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
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CalibrationError(f"{begin} holds NaN or infinity: remove or mend that sample")
