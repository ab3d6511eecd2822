"""The sizes of a model's dynamic axes, for whoever needs arrays before there are any."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from math import prod
from operator import index
from typing import Any

from edgebig.errors import InputError, UsageError
from edgebig.spec import TensorSpec

Shape = tuple[int, ...]
Given = Mapping[str, int | Sequence[int]]
"""A shape for an input's name, or a size for the name of an axis: ``{"x": (1, 3), "batch": 1}``."""

_MOST_ELEMENTS = sys.maxsize // 16
"""Of the widest type; NumPy makes no array of more bytes than ``sys.maxsize``."""


def input_shapes(specs: Sequence[TensorSpec], given: Given | None, usual: Mapping[str, Shape]) -> dict[str, Shape]:
    """A shape for each input.

    Args:
        specs: of the inputs.
        given: shapes of inputs, and sizes of named axes.
        usual: the shapes that the bundle was compiled for; taken for inputs of which nothing else is known.

    Raises:
        InputError: a shape does not fit its input, or axes of one name differ.
        UsageError: the size of an axis is nowhere, a name in ``given`` is neither an input nor an axis, or its size is
            no whole number.
    """
    asked = _whole_numbers({} if given is None else given)
    axes = {dim for spec in specs for dim in spec.shape if isinstance(dim, str)}
    inputs = {spec.name for spec in specs}
    for name in asked:
        if name not in inputs and name not in axes:
            known = ", ".join([*sorted(inputs), *sorted(axes)])
            raise UsageError(f"shapes names {name!r}, which is neither an input nor an axis: it may name {known}")
    sizes = {name: _positive(name, size) for name, size in asked.items() if isinstance(size, int) and name in axes}
    shapes = {spec.name: _whole(spec, asked[spec.name]) for spec in specs if spec.name in asked.keys() - sizes.keys()}
    for spec in specs:
        if spec.name in shapes:
            _note_sizes(spec, shapes[spec.name], sizes)
    for spec in specs:
        if spec.name not in shapes:
            shapes[spec.name] = _filled(spec, sizes, usual.get(spec.name))
            _note_sizes(spec, shapes[spec.name], sizes)
    for spec in specs:
        _refuse_too_large(spec, shapes[spec.name])
    return {spec.name: shapes[spec.name] for spec in specs}


def output_shape(spec: TensorSpec, inputs: Sequence[TensorSpec], shapes: Mapping[str, Shape]) -> Shape | None:
    """The output's shape, as far as it follows from the names of axes; else ``None``.

    An ONNX graph says by equal names that sizes are equal. That a graph may be wrong about it, the caller sees to.
    """
    sizes: dict[str, int] = {}
    for one in inputs:
        sizes.update({dim: size for dim, size in zip(one.shape, shapes[one.name], strict=True) if isinstance(dim, str)})
    found = [dim if isinstance(dim, int) else sizes.get(dim) if dim is not None else None for dim in spec.shape]
    known = tuple(size for size in found if size is not None)
    return known if len(known) == len(found) else None


def _whole_numbers(given: Any) -> dict[str, int | Shape]:
    """What was given, as Python's whole numbers: NumPy's are taken too, floats and strings are not."""
    if not isinstance(given, Mapping):
        raise UsageError(f"shapes must be a dict of shapes by input, or sizes by axis, found {type(given).__name__}")
    return {str(name): _one_or_several(name, size) for name, size in given.items()}


def _one_or_several(name: object, given: Any) -> int | Shape:
    try:
        return int(index(given))
    except TypeError:
        pass
    try:
        return tuple(int(index(size)) for size in given)
    except TypeError:
        raise UsageError(f"shapes[{name!r}] must be one whole number or several, found {given!r:.60}") from None


def _whole(spec: TensorSpec, given: int | Shape) -> Shape:
    shape = (given,) if isinstance(given, int) else given
    fits = len(shape) == len(spec.shape) and all(
        size == dim if isinstance(dim, int) else size >= 0 for size, dim in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise InputError(f"the shape {_text(shape)} does not fit the input {spec}")
    return shape


def _refuse_too_large(spec: TensorSpec, shape: Shape) -> None:
    if prod(max(size, 1) for size in shape) > _MOST_ELEMENTS:
        raise InputError(f"the shape {_text(shape)} of the input {spec} is larger than any memory")


def _positive(name: str, size: int) -> int:
    if size < 0:
        raise InputError(f"the axis {name!r} must be 0 or more, found {size}")
    return size


def _note_sizes(spec: TensorSpec, shape: Shape, sizes: dict[str, int]) -> None:
    for dim, size in zip(spec.shape, shape, strict=True):
        if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
            raise InputError(
                f"the axis {dim!r} must be of one size: it is {sizes[dim]} elsewhere, and {size} in {spec.name!r}"
            )


def _filled(spec: TensorSpec, sizes: Mapping[str, int], usual: Shape | None) -> Shape:
    """The spec's shape with the sizes that are known, and the usual ones for the others."""
    places = usual if usual is not None and len(usual) == len(spec.shape) else (None,) * len(spec.shape)
    shape: list[int] = []
    for axis, (dim, place) in enumerate(zip(spec.shape, places, strict=True)):
        size = dim if isinstance(dim, int) else sizes.get(dim, place) if isinstance(dim, str) else place
        if size is None:
            places_text = ", ".join(["…"] * len(spec.shape)) + ("," if len(spec.shape) == 1 else "")
            example = f"{{{spec.name!r}: ({places_text})}}"
            named = f", or {{{dim!r}: …}}" if isinstance(dim, str) else ""
            raise UsageError(
                f"axis {axis} of the input {spec} has no fixed size, and the bundle names none that is usual: "
                f"give it, as shapes={example}{named}"
            )
        shape.append(size)
    return tuple(shape)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
