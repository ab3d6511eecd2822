"""Reads samples from ``.npy`` and ``.npz`` files row by row, so that memory stays flat."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from edgebig.calibrate.data.batches import batch_axes
from edgebig.calibrate.data.reading import Array
from edgebig.errors import CalibrationError
from edgebig.spec import TensorSpec

# What damaged, encrypted or unusually packed archives lead to.
_DAMAGE = (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


def read_samples(
    file: Path, inputs: Sequence[TensorSpec], carried: frozenset[str] = frozenset()
) -> Iterator[dict[str, Array]]:
    """The samples of one file.

    An ``.npz`` holds an array for each input, an ``.npy`` the array of the only input. Where an array
    has one axis more than the input, the first axis counts samples. Otherwise a sample is a slice
    along the batch axis: of size 1 where the batch is dynamic, of the input's size where that is
    fixed; where the input has no batch axis, the array is one sample.

    Args:
        file: the ``.npy`` or ``.npz`` file.
        inputs: the model's inputs.
        carried: inputs that the file may lack.

    Raises:
        CalibrationError: damaged, missing inputs, pickled objects, or lengths that differ.
    """
    axes = batch_axes(inputs)
    try:
        with ExitStack() as stack:
            streams = _open(file, inputs, carried, stack)
            takes = {s.name: _take(file, s, streams[s.name], axes.get(s.name)) for s in inputs if s.name in streams}
            counts = {name: count for name, (count, _) in takes.items()}
            if len(set(counts.values())) > 1:
                found = ", ".join(f"{k} {n}" for k, n in counts.items())
                raise CalibrationError(
                    f"calibration data: {file}: the inputs hold different numbers of samples: {found}"
                )
            for _ in range(next(iter(counts.values()), 0)):
                yield {name: take() for name, (_, take) in takes.items()}
    except _DAMAGE as error:
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
        self.count = int(self.shape[0])
        self._stream = stream

    def take(self, count: int | None) -> Array:
        """The next ``count`` rows, or with ``None`` the next row without its axis."""
        shape = self.shape[1:] if count is None else (count, *self.shape[1:])
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        data = self._stream.read(size)
        if len(data) != size:
            raise EOFError(f"{size} bytes expected, {len(data)} found")
        return np.frombuffer(data, self.dtype).reshape(shape)


def _open(file: Path, inputs: Sequence[TensorSpec], carried: frozenset[str], stack: ExitStack) -> dict[str, _Rows]:
    needed = [s.name for s in inputs if s.name not in carried]
    if file.suffix.lower() == ".npy":
        if len(needed) != 1:
            raise CalibrationError(
                f"calibration data: {file} holds one array, the model takes {', '.join(needed)}: give an .npz"
            )
        return {needed[0]: _Rows(stack.enter_context(file.open("rb")))}
    archive = stack.enter_context(zipfile.ZipFile(file))
    members = {n.removesuffix(".npy"): n for n in archive.namelist()}
    missing = [name for name in needed if name not in members]
    if missing:
        raise CalibrationError(
            f"calibration data: {file} has no array {missing[0]!r}: it holds {', '.join(members) or 'nothing'}"
        )
    return {s.name: _Rows(stack.enter_context(archive.open(members[s.name]))) for s in inputs if s.name in members}


def _take(file: Path, spec: TensorSpec, rows: _Rows, axis: int | None) -> tuple[int, Callable[[], Array]]:
    """The number of samples in an array, and what gives the next of them."""
    if len(rows.shape) == len(spec.shape) + 1:
        return rows.count, lambda: rows.take(None)
    if len(rows.shape) != len(spec.shape):
        found = "x".join(map(str, rows.shape))
        raise CalibrationError(f"calibration data: {file}: input {spec.name!r} needs {spec}, found {found}")
    if axis is None and not spec.is_static:
        return 1, lambda: rows.take(rows.count)
    if axis:
        # slices along a later axis lie apart in the file
        slices = iter(np.moveaxis(rows.take(rows.count), axis, 0))
        return rows.shape[axis], lambda: np.expand_dims(next(slices), axis)
    batch = spec.shape[0]
    size = batch if isinstance(batch, int) else 1
    return rows.count // max(size, 1), lambda: rows.take(size)
