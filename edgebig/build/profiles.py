"""Optimization profiles: which shapes an engine is built for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebig.build.axes import GUESSES, Extent, Layout, Shapes, axis_name
from edgebig.build.fit import Fitter
from edgebig.errors import UsageError
from edgebig.spec import TensorSpec

if TYPE_CHECKING:
    from edgebig.recipe import ShapeRange

Trial = Callable[[Shapes], str]
"""Computes the graph with inputs of these shapes; says why that failed, and nothing where it did not."""


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
    inputs: Sequence[TensorSpec],
    asked: Mapping[str, ShapeRange],
    axes: Mapping[str, Extent],
    *,
    trial: Trial | None = None,
    example: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Profile]:
    """A profile for each input that has a dynamic axis.

    Args:
        inputs: the graph's inputs.
        asked: the recipe's shapes, which win.
        axes: what the source knows of the model's named axes.
        trial: where given, ranges that were not asked for are moved until the graph computes at their ends.
        example: shapes at which the graph is known to compute, by input.

    Returns:
        Profiles by input name. Axes of one name get one size; an axis named by an expression of others
        (``past_sequence_length + 1``) follows them. As guessed, where the graph computes at no shape that was tried.

    Raises:
        UsageError: an asked shape does not fit its input.
    """
    given: dict[str, Extent] = {}
    for spec in inputs:
        if spec.name in asked:
            for axis, extent in _asked_axes(spec, asked[spec.name]).items():
                if given.setdefault(axis, extent) != extent:
                    raise UsageError(
                        f"shapes: the axis {axis} has one range, found {given[axis]} and {extent} (in {spec.name})"
                    )
    known = {**axes, **given}
    layout = Layout.of(inputs, known)
    extents = {axis: known.get(axis, GUESSES[role]) for axis, role in layout.roles.items()}
    if trial is not None and not set(layout.roles) <= set(given):
        usual = {axis: extent[1] for axis, extent in known.items()}
        fitter = Fitter(layout.roles, lambda sizes: trial(layout.shapes({**usual, **sizes})), given)
        extents = fitter.fit(extents, layout.sizes(example or {})) or extents
    smallest, best, largest = (
        layout.shapes({**{axis: e[i] for axis, e in known.items()}, **{axis: e[i] for axis, e in extents.items()}})
        for i in range(3)
    )
    profiles = {name: Profile(smallest[name], best[name], largest[name]) for name in best}
    return profiles | {n: Profile(asked[n].min, asked[n].opt, asked[n].max) for n in profiles if n in asked}


def _asked_axes(spec: TensorSpec, asked: ShapeRange) -> dict[str, Extent]:
    if len(asked.min) != len(spec.shape):
        raise UsageError(f"shapes: {spec} has {len(spec.shape)} axes, found {len(asked.min)}")
    extents = enumerate(zip(spec.shape, asked.min, asked.opt, asked.max, strict=True))
    return {axis_name(spec, i): (low, best, high) for i, (d, low, best, high) in extents if not isinstance(d, int)}
