"""How much room each tensor needs in a slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgebig.errors import BackendError, EdgebigError, UsageError
from edgebig.runtime import Session
from edgebig.serve.layout import DTYPES, Shape
from edgebig.spec import TensorSpec

Profiles = Mapping[str, Mapping[str, Sequence[int]]]


def largest_shapes(session: Session, profiles: Profiles, given: Mapping[str, Shape]) -> list[Shape]:
    """The largest shape of each input, then of each output.

    An input's is the one given, its ``max`` in the profiles, or its own where it has no dynamic axis; axes that share a
    name share their size. The model is run once on zeros of those shapes, which also warms it up: an output's is
    the one given, or else what comes out of that, if the output's named axes say nothing larger.

    Args:
        session: the model.
        profiles: of the bundle's part: for each dynamic input its ``min``, ``opt`` and ``max`` shapes.
        given: shapes by name of input or output.

    Raises:
        UsageError: a name is unknown, a shape does not fit, or nothing says how large an axis may be.
    """
    specs = {spec.name: spec for spec in (*session.inputs, *session.outputs)}
    unknown = [name for name in given if name not in specs]
    if unknown:
        raise UsageError(f"--shapes: the model has no input or output {unknown[0]!r}: it has {', '.join(specs)}")
    for name, shape in given.items():
        _check(specs[name], shape)
    known = {name: tuple(profile["max"]) for name, profile in profiles.items() if "max" in profile} | dict(given)
    axes: dict[str, int] = {}
    for spec in session.inputs:
        for dim, size in zip(spec.shape, known.get(spec.name, ()), strict=False):
            if isinstance(dim, str):
                axes[dim] = max(axes.get(dim, 0), size)
    inputs: dict[str, Shape] = {}
    for spec in session.inputs:
        name, size_of = spec.name, known.get(spec.name, _resolved(spec, axes))
        if size_of is None:
            raise UsageError(
                f"input {spec} has axes of any size, and the bundle does not say how large they may be: "
                f"give --shapes {name}:{'x'.join(str(d) if isinstance(d, int) else 'N' for d in spec.shape)}"
            )
        inputs[name] = size_of
    found = _run_on_zeros(session, inputs)
    outputs = [given[s.name] if s.name in given else _output(s, axes, found) for s in session.outputs]
    return [*inputs.values(), *outputs]


def _check(spec: TensorSpec, shape: Shape) -> None:
    fits = len(shape) == len(spec.shape) and all(
        size == dim or not isinstance(dim, int) for dim, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise UsageError(f"--shapes {spec.name}:{'x'.join(map(str, shape))} does not fit {spec}")


def _resolved(spec: TensorSpec, axes: Mapping[str, int]) -> Shape | None:
    """The shape with the sizes of named axes put in; ``None`` where one is not known."""
    sizes = [dim if isinstance(dim, int) else axes.get(dim) if isinstance(dim, str) else None for dim in spec.shape]
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == len(sizes) else None


def _output(spec: TensorSpec, axes: Mapping[str, int], found: Mapping[str, Shape] | EdgebigError) -> Shape:
    by_name = _resolved(spec, axes)
    if isinstance(found, EdgebigError):
        if by_name is None:
            raise UsageError(
                f"the size of output {spec} is unknown, as a run on zeros failed ({found}): give --shapes {spec.name}:…"
            )
        return by_name
    seen = found[spec.name]
    if by_name is None or len(by_name) != len(seen):
        return seen
    return tuple(max(pair) for pair in zip(by_name, seen, strict=True))


def _run_on_zeros(session: Session, shapes: Mapping[str, Shape]) -> dict[str, Shape] | EdgebigError:
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    missing = [spec for spec in session.inputs if spec.dtype not in DTYPES]
    if missing:
        return BackendError(f"{missing[0]} cannot be made")
    try:
        feeds: dict[str, np.ndarray[Any, Any]] = {n: np.zeros(size, dtype=dtypes[n]) for n, size in shapes.items()}
    except (MemoryError, ValueError):  # beyond this machine, beyond NumPy; the layout says how large it would be
        return BackendError("zeros of that shape do not fit into memory")
    try:
        return {name: array.shape for name, array in session.run(feeds).items()}
    except EdgebigError as error:
        return error
