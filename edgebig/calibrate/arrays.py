"""Reads samples from ``.npy`` and ``.npz`` files row by row, so that memory stays flat."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgebig.errors import CalibrationError
from edgebig.spec import TensorSpec

Array = np.ndarray[Any, Any]


def read_samples(file: Path, inputs: Sequence[TensorSpec]) -> Iterator[dict[str, Array]]:
    """The samples of one file.

    An ``.npz`` holds an array for each input, an ``.npy`` the array of the only input. The first
    axis counts the samples. Where an array has one axis more than the input, each entry is a
    sample's array; otherwise a slice along the batch axis is, of the input's fixed batch size or 1.

    Raises:
        CalibrationError: damaged, missing inputs, pickled objects, or lengths that differ.
    """
    try:
        with ExitStack() as stack:
            streams = _open(file, inputs, stack)
            chunks = {s.name: _chunk(file, s, streams[s.name]) for s in inputs}
            counts = {s.name: streams[s.name].rows // max(chunks[s.name] or 1, 1) for s in inputs}
            if len(set(counts.values())) > 1:
                found = ", ".join(f"{k} {n}" for k, n in counts.items())
                raise CalibrationError(
                    f"calibration data: {file}: the inputs hold different numbers of samples: {found}"
                )
            for _ in range(next(iter(counts.values()), 0)):
                yield {s.name: streams[s.name].take(chunks[s.name]) for s in inputs}
    except (ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise CalibrationError(f"calibration data: {file} is damaged or cut short: {error}") from error


class _Rows:
    """Rows of one array, read from its file in order."""

    def __init__(self, stream: IO[bytes]) -> None:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = read_header(stream)
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects, not numbers")
        if fortran and len(self.shape) > 1:
            raise ValueError("it is in Fortran order: save it with np.ascontiguousarray")
        if not self.shape:
            raise ValueError("it holds a scalar, and the first axis must count the samples")
        self.rows = int(self.shape[0])
        self._stream = stream

    def take(self, count: int | None) -> Array:
        """The next ``count`` rows, or with ``None`` the next row without its axis."""
        shape = self.shape[1:] if count is None else (count, *self.shape[1:])
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        data = self._stream.read(size)
        if len(data) != size:
            raise EOFError(f"{size} bytes expected, {len(data)} found")
        return np.frombuffer(data, self.dtype).reshape(shape)


def _open(file: Path, inputs: Sequence[TensorSpec], stack: ExitStack) -> dict[str, _Rows]:
    if file.suffix.lower() == ".npy":
        if len(inputs) != 1:
            names = ", ".join(s.name for s in inputs)
            raise CalibrationError(f"calibration data: {file} holds one array, the model takes {names}: give an .npz")
        return {inputs[0].name: _Rows(stack.enter_context(file.open("rb")))}
    archive = stack.enter_context(zipfile.ZipFile(file))
    members = {n.removesuffix(".npy"): n for n in archive.namelist()}
    missing = [s.name for s in inputs if s.name not in members]
    if missing:
        raise CalibrationError(
            f"calibration data: {file} has no array {missing[0]!r}: it holds {', '.join(members) or 'nothing'}"
        )
    return {s.name: _Rows(stack.enter_context(archive.open(members[s.name]))) for s in inputs}


def _chunk(file: Path, spec: TensorSpec, rows: _Rows) -> int | None:
    """Rows of a sample along the batch axis; ``None`` where each row is a whole sample."""
    if len(rows.shape) == len(spec.shape) + 1:
        return None
    if len(rows.shape) != len(spec.shape):
        found = "x".join(map(str, rows.shape))
        raise CalibrationError(f"calibration data: {file}: input {spec.name!r} needs {spec}, found {found}")
    batch = spec.shape[0]
    return batch if isinstance(batch, int) else 1
