"""Optimization profiles: which shapes an engine is built for."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgebig.errors import UsageError
from edgebig.recipe import ShapeRange
from edgebig.spec import Dim, TensorSpec

Extent = tuple[int, int, int]
"""Smallest, best and largest size of an axis."""

_BATCH: Extent = (1, 1, 8)
_SEQUENCE: Extent = (1, 128, 512)
_UNKNOWN: Extent = (1, 1, 16)


@dataclass(frozen=True)
class Profile:
    """The shapes of one input that an engine takes: smallest, the one it is tuned for, largest."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def to_json(self) -> dict[str, list[int]]:
        """As the manifest holds it."""
        return {"min": list(self.min), "opt": list(self.opt), "max": list(self.max)}


def derive_profiles(
    inputs: Sequence[TensorSpec], asked: Mapping[str, ShapeRange], axes: Mapping[str, Extent]
) -> dict[str, Profile]:
    """A profile for each input that has a dynamic axis.

    Args:
        inputs: the graph's inputs.
        asked: the recipe's shapes, which win.
        axes: what the source knows of the model's named axes.

    Returns:
        Profiles by input name. Axes of one name get one size; an axis named by an expression of others
        (``past_sequence_length + 1``) follows them.

    Raises:
        UsageError: an asked shape does not fit its input.
    """
    known = dict(axes)
    given: dict[str, Extent] = {}
    for spec in inputs:
        if spec.name in asked:
            for axis, extent in _asked_axes(spec, asked[spec.name]).items():
                if given.setdefault(axis, extent) != extent:
                    raise UsageError(
                        f"shapes: the axis {axis} has one range, found {given[axis]} and {extent} (in {spec.name})"
                    )
    known.update(given)
    profiles = {}
    for spec in inputs:
        if spec.is_static:
            continue
        if spec.name in asked:
            chosen = asked[spec.name]
            profiles[spec.name] = Profile(chosen.min, chosen.opt, chosen.max)
            continue
        extents = [_extent(dim, position, known) for position, dim in enumerate(spec.shape)]
        smallest, best, largest = (tuple(e[i] for e in extents) for i in range(3))
        profiles[spec.name] = Profile(smallest, best, largest)
    return profiles


def _asked_axes(spec: TensorSpec, asked: ShapeRange) -> dict[str, Extent]:
    if len(asked.min) != len(spec.shape):
        raise UsageError(f"shapes: {spec} has {len(spec.shape)} axes, found {len(asked.min)}")
    extents = zip(spec.shape, asked.min, asked.opt, asked.max, strict=True)
    return {dim: (low, best, high) for dim, low, best, high in extents if isinstance(dim, str)}


def _extent(dim: Dim, position: int, known: Mapping[str, Extent]) -> Extent:
    if isinstance(dim, int):
        return dim, dim, dim
    if dim is None:
        return _BATCH if position == 0 else _UNKNOWN
    if dim in known:
        return known[dim]
    computed = _evaluate(dim, known)
    if computed is not None:
        return computed
    lowered = dim.lower()
    if "batch" in lowered or (position == 0 and lowered in {"n", "b"}):
        return _BATCH
    return _SEQUENCE if "seq" in lowered or "length" in lowered else _UNKNOWN


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def _evaluate(expression: str, known: Mapping[str, Extent]) -> Extent | None:
    """The extent of an axis that an exporter named by an expression; ``None`` if it is none of known names."""
    try:
        tree = ast.parse(expression, mode="eval").body
        if not isinstance(tree, ast.BinOp):
            return None
        low, best, high = (_value(tree, {k: e[i] for k, e in known.items()}) for i in range(3))
    except (SyntaxError, KeyError, ValueError, ArithmeticError):
        return None
    return low, best, high


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, sizes), _value(node.right, sizes))
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    raise ValueError(ast.dump(node))
