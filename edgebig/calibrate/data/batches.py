"""The axis that counts samples, and samples of a batch taken apart along it.

What calibration gives must not depend on how the data was batched, so every sample that reaches a
graph has one row wherever the graph allows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgebig.calibrate.data.reading import Sample
from edgebig.errors import CalibrationError
from edgebig.spec import Dim, TensorSpec

_LENGTHS = ("seq", "len", "time", "frame", "height", "width", "sample", "tok", "step", "point", "past", "word", "char")
_SHORT_LENGTHS = {"t", "l", "s", "h", "w"}


def batch_axes(inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """The dynamic batch axis of each input that has one; empty where the model has none.

    It is the axis whose name says batch, else one that all dynamic inputs share by name and that comes
    first in one of them, else the first axis of all if none has a name. A single axis, and names
    that say a length (``seq``, ``time``, ``samples`` …), are no batch. Inputs of fixed sizes have none.
    """
    dynamic = [s for s in inputs if not s.is_static]
    names = {d: None for s in dynamic for d in s.shape if isinstance(d, str)}
    said = [name for name in names if "batch" in name.lower() and not set(name) & set("*+/")]
    if len(said) == 1:
        return _axes(dynamic, said[0])
    if not any(len(s.shape) > 1 for s in dynamic):
        return {}
    for name in said or names:
        first = any(s.shape[0] == name for s in dynamic)
        if first and all(name in s.shape for s in dynamic) and not _is_length(name):
            return _axes(dynamic, name)
    if dynamic and not names and all(s.shape[0] is None for s in dynamic):
        return {s.name: 0 for s in dynamic}
    return {}


def rows_of(where: str, sample: Sample, axes: Mapping[str, int]) -> Iterator[tuple[str, Sample]]:
    """The sample's rows, each a sample with size 1 on the batch axis; the sample itself if it has one.

    Args:
        where: names the sample; a row's name adds its number.
        sample: arrays by input; those with size 1 or without a batch axis go with every row.
        axes: as :func:`batch_axes` gives them.

    Raises:
        CalibrationError: the inputs have different numbers of rows.
    """
    sizes = {name: sample[name].shape[axis] for name, axis in axes.items() if name in sample}
    counts = {size for size in sizes.values() if size != 1}
    if len(counts) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise CalibrationError(f"calibration sample {where}: the inputs differ in their batch size: {found}")
    if not counts or counts == {0}:
        yield where, sample
        return
    split = [name for name, size in sizes.items() if size != 1]
    for row in range(counts.pop()):
        parts = {name: sample[name].take([row], axis=axes[name]) for name in split}
        yield f"{where} row {row}", {**sample, **parts}


def with_batch_axis(sample: Sample, inputs: Sequence[TensorSpec]) -> Sample:
    """The sample with a batch axis of size 1 on arrays that lack one, as people write single samples."""
    axes = batch_axes(inputs)
    fitted = dict(sample)
    for spec in inputs:
        array = sample.get(spec.name)
        if array is None or array.ndim != len(spec.shape) - 1:
            continue
        axis = axes.get(spec.name, 0 if spec.shape[0] == 1 else None)
        if axis is not None:
            fitted[spec.name] = array.reshape(*array.shape[:axis], 1, *array.shape[axis:])
    return fitted


def _axes(dynamic: Sequence[TensorSpec], name: Dim) -> dict[str, int]:
    return {s.name: s.shape.index(name) for s in dynamic if name in s.shape}


def _is_length(name: str) -> bool:
    lowered = name.lower()
    return lowered in _SHORT_LENGTHS or any(word in lowered for word in _LENGTHS) or bool(set(name) & set("*+/"))
