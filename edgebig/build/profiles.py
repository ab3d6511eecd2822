"""Optimization profiles: which shapes an engine is built for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgebig.build.axes import GUESSES, Extent, Layout, Shapes, Sizes, axis_name
from edgebig.build.fit import Fitter
from edgebig.build.phases import phases_of
from edgebig.build.room import fit_to_room
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


@dataclass(frozen=True)
class Knowledge:
    """What is known of a graph's axes, and what answers questions on them.

    Attributes:
        axes: what the source knows of the model's named axes.
        positions: the largest number of tokens, those of the cache among them, where the source knows it.
        example: shapes at which the graph is known to compute, by input.
        trial: where given, ranges that were not asked for are moved until the graph computes at their ends.
        fits: where given, largest sizes that were not asked for are reduced until this says yes.
        best_only: only the best shapes are tried: axes of which nothing is known get those alone.
    """

    axes: Mapping[str, Extent] = field(default_factory=dict)
    positions: int | None = None
    example: Mapping[str, Sequence[int]] = field(default_factory=dict)
    trial: Trial | None = None
    fits: Callable[[Shapes], bool] | None = None
    best_only: bool = False


ProfileSet = dict[str, Profile]
"""A profile for each input that has a dynamic axis."""


def derive_profiles(
    inputs: Sequence[TensorSpec], asked: Sequence[Mapping[str, ShapeRange]] = (), known: Knowledge | None = None
) -> tuple[ProfileSet, ...]:
    """Sets of profiles: those that were asked for, else one, or prefill and decode where the graph serves both.

    Args:
        inputs: the graph's inputs.
        asked: the recipe's shapes, which win, for each set.
        known: of the graph.

    Returns:
        At least one set; an empty one where no input has a dynamic axis. Axes of one name get one size; an axis named
        by an expression of others (``past_sequence_length + 1``) follows them. As guessed, where the graph computes at
        no shape that was tried.

    Raises:
        UsageError: an asked shape does not fit its input.
    """
    known = known or Knowledge()
    sets = [_Set.of(inputs, wanted, known) for wanted in asked or ({},)]
    if len(sets) > 1:
        return _unique(one.fitted(one.extents)[0] for one in sets)
    (one,) = sets
    if known.best_only:
        return (one.fitted(one.extents)[0],)
    phases = phases_of(one.layout, one.extents, one.given, known.positions)
    found = [one.fitted(ranges.extents, ranges.fixed) for ranges in phases]
    if len(found) > 1 and not all(computes for _, computes in found):
        return (one.fitted(one.extents)[0],)
    return _unique(profiles for profiles, _ in found)


def _unique(sets: Iterable[ProfileSet]) -> tuple[ProfileSet, ...]:
    found: list[ProfileSet] = []
    for one in sets:
        if one not in found:
            found.append(one)
    return tuple(found)


@dataclass(frozen=True)
class _Set:
    """One set on its way: its axes, their ranges, and which of these were asked for."""

    known: Knowledge
    layout: Layout
    extents: dict[str, Extent]
    given: Mapping[str, Extent]
    asked: Mapping[str, ShapeRange]

    @classmethod
    def of(cls, inputs: Sequence[TensorSpec], asked: Mapping[str, ShapeRange], known: Knowledge) -> _Set:
        given: dict[str, Extent] = {}
        for spec in inputs:
            if spec.name in asked:
                for axis, extent in _asked_axes(spec, asked[spec.name]).items():
                    if given.setdefault(axis, extent) != extent:
                        raise UsageError(
                            f"shapes: the axis {axis} has one range, found {given[axis]} and {extent} (in {spec.name})"
                        )
        layout = Layout.of(inputs, {**known.axes, **given})
        extents = {axis: {**known.axes, **given}.get(axis, GUESSES[role]) for axis, role in layout.roles.items()}
        return cls(known, layout, extents, given, asked)

    def fitted(self, extents: Mapping[str, Extent], fixed: frozenset[str] = frozenset()) -> tuple[ProfileSet, bool]:
        """The profiles within these ranges, and whether the graph computes at them, as far as that was tried."""
        known, roles = self.known, self.layout.roles
        computes = True
        extents = dict(extents)
        if known.fits is not None:
            fits = known.fits
            extents = fit_to_room(roles, extents, fixed | set(self.given), lambda sizes: fits(self._shapes(sizes)))
        if known.trial is not None and not set(roles) <= set(self.given):
            trial = known.trial
            fitter = Fitter(roles, lambda sizes: trial(self._shapes(sizes)), fixed | set(self.given))
            example = self.layout.sizes(known.example)
            found = self._best_alone(fitter, extents, example) if known.best_only else fitter.fit(extents, example)
            computes = found is not None
            extents = found or extents
        smallest, best, largest = (self._shapes({axis: e[i] for axis, e in extents.items()}, i) for i in range(3))
        profiles = {name: Profile(smallest[name], best[name], largest[name]) for name in best}
        if all(extents[axis] == extent for axis, extent in self.given.items() if axis in extents):
            profiles |= {n: Profile(r.min, r.opt, r.max) for n, r in self.asked.items() if n in profiles}
        return profiles, computes

    def _best_alone(self, fitter: Fitter, extents: dict[str, Extent], example: Sizes) -> dict[str, Extent] | None:
        best = fitter.best(extents, example)
        if best is None:
            return None
        certain = {
            axis for axis in {**self.known.axes, **self.given} if axis in best and best[axis] == extents[axis][1]
        }
        return {axis: extent if axis in certain else (best[axis],) * 3 for axis, extent in extents.items()}

    def _shapes(self, sizes: Sizes, end: int = 1) -> Shapes:
        """The inputs' shapes; axes that only expressions name have their usual size, or that of an end."""
        usual = {axis: extent[end] for axis, extent in {**self.known.axes, **self.given}.items()}
        return self.layout.shapes({**usual, **sizes})


def _asked_axes(spec: TensorSpec, asked: ShapeRange) -> dict[str, Extent]:
    if len(asked.min) != len(spec.shape):
        raise UsageError(f"shapes: {spec} has {len(spec.shape)} axes, found {len(asked.min)}")
    extents = enumerate(zip(spec.shape, asked.min, asked.opt, asked.max, strict=True))
    return {axis_name(spec, i): (low, best, high) for i, (d, low, best, high) in extents if not isinstance(d, int)}
