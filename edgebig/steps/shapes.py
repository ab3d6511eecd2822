"""Chooses the shapes that inputs with dynamic axes have, by computing the graph at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgebig.build import Knowledge, ProfileSet, derive_profiles
from edgebig.build.axes import GUESSES, Extent, Layout, axis_name
from edgebig.errors import GraphError, UsageError
from edgebig.graph import Executor, Graph
from edgebig.recipe import ShapeRange
from edgebig.source import SourcePart
from edgebig.spec import TensorSpec
from edgebig.stages import StageNotes
from edgebig.steps.room import Room
from edgebig.steps.sizes import Sizer
from edgebig.steps.work import Sample

_LARGEST = 1 << 30
"""Bytes of weights above which trials would take too long."""

_MOST = 2 << 30
"""Bytes of activations, in float32, of a trial: larger shapes are not guessed, but can be asked for."""

_TRUSTED = 256 << 20
"""Bytes of activations above which sizes that the source vouches for are not tried."""

_BUDGET = 8 << 30
"""Bytes of activations of all trials beyond the best shapes together: the ranges stay within what was found by then."""

Shapes = Mapping[str, tuple[int, ...]]


def choose_profiles(
    part: SourcePart,
    graph: Graph,
    asked: Sequence[Mapping[str, ShapeRange]],
    notes: StageNotes,
    *,
    room: Room | None = None,
    best_only: bool = False,
) -> tuple[ProfileSet, ...]:
    """Sets of shapes at whose ends the graph computes here, where it is small enough to be tried.

    Says where shapes were moved, or made smaller for the target's memory.

    Args:
        part: what the source knows.
        graph: as it is built, in float32.
        asked: shapes that were asked for, for each set.
        notes: of the stage.
        room: the target's memory, where it is known.
        best_only: for engines that take whatever the graph computes at: only the best shapes are tried.

    Raises:
        UsageError: an asked shape does not fit its input, or its inputs and outputs do not fit the target's memory.
    """
    example = part.examples[0] if part.examples else {}
    shapes = {name: value.shape for name, value in example.items()}
    plain = Knowledge(part.axes, part.positions, shapes, best_only=best_only)
    guessed = derive_profiles(graph.inputs, asked, plain)
    known = plain if room is None else replace(plain, fits=room.fits)
    roomy = guessed if room is None else derive_profiles(graph.inputs, asked, known)
    if room is not None and roomy != guessed:
        before = max((_largest(one) for one in guessed), key=room.needed)
        notes.note(
            f"{part.name}: largest shapes made smaller for the target's memory: {_ranges(roomy)}; "
            f"{_ranges(guessed)} would take {room.text(before)}"
        )
    sizer = Sizer(graph) if room is None else room.sizer
    found = _tried(part, sizer, asked, known, roomy, example, notes)
    if len(found) > max(1, len(asked)):
        notes.note(f"{part.name}: a set of shapes for prefill and one for decode: {_ranges(found)}")
    if room is not None:
        _check_room(part, found, any(asked), room, notes)
    return found


def _tried(
    part: SourcePart,
    sizer: Sizer,
    asked: Sequence[Mapping[str, ShapeRange]],
    known: Knowledge,
    guessed: tuple[ProfileSet, ...],
    example: Sample,
    notes: StageNotes,
) -> tuple[ProfileSet, ...]:
    graph, inputs = sizer.graph, sizer.graph.inputs
    named = set.intersection(*map(set, asked)) if asked else set()
    if all(set(one) <= named for one in guessed) or graph.weight_bytes > _LARGEST or not all(map(_is_numeric, inputs)):
        return guessed
    try:
        executor = Executor(graph, "off")
    except GraphError:  # the stages that need it say why
        return guessed
    with executor:
        trials = _Trials(sizer, executor, example, {**part.axes, **_asked_axes(inputs, asked)})
        found = derive_profiles(inputs, asked, replace(known, trial=trials.trial))
    if found != guessed:
        notes.note(f"{part.name}: shapes at which the model computes, found by trying: {_ranges(found)}")
    elif trials.refused:
        why = f"{part.name}: computes at none of the shapes that were tried: give --shapes ({trials.refused[0]})"
        notes.decline(why[:500])
    return found


@dataclass
class _Trials:
    """Computes a graph at shapes, within bounds.

    A trial at the best shapes or below is always run. Above them the bytes of activations bound it: a size that the
    source vouches for (a model's positions) is believed where its trial would be long, a guessed one is not.
    """

    sizer: Sizer
    executor: Executor
    example: Sample
    vouched: Mapping[str, Extent]
    refused: list[str] = field(default_factory=list)
    spent: int = 0

    def trial(self, shapes: Shapes) -> str:
        """Why the graph does not compute there, or is not tried; empty where it does."""
        inputs = self.sizer.graph.inputs
        above, guessed = self._above(shapes)
        if above:
            needed = self._needed(shapes)
            if needed > _TRUSTED and not guessed:
                return ""
            if needed > _MOST:
                return f"its activations take {needed / 1e9:.1f} GB there"
            if self.spent + needed > _BUDGET:
                return "enough was tried"
            self.spent += needed
        try:
            self.executor.run(_feeds(inputs, shapes, self.example))
        except GraphError as error:
            self.refused.append(" ".join(str(error).split()))
            return self.refused[-1]
        return ""

    def _needed(self, shapes: Shapes) -> int:
        """Bytes of activations: as of larger shapes where these are known and small, which saves an inference."""
        bound = self.sizer.peak_at_most(shapes)
        if bound is not None and bound <= min(_TRUSTED, _MOST, (_BUDGET - self.spent) // 2):
            return bound
        values = self.sizer.values(shapes)
        return 0 if values is None else values.peak

    def _above(self, shapes: Shapes) -> tuple[bool, bool]:
        """Whether an axis is longer than its best size, and whether nobody vouches for one that is."""
        layout = Layout.of(self.sizer.graph.inputs, self.vouched)
        above = guessed = False
        for spec in layout.inputs:
            for position, size in enumerate(shapes[spec.name]):
                axis = axis_name(spec, position)
                role = layout.roles.get(axis)
                if isinstance(spec.shape[position], int) or role is None:
                    continue
                is_above = size > self.vouched.get(axis, GUESSES[role])[1]
                above = above or is_above
                guessed = guessed or (is_above and axis not in self.vouched)
        return above, guessed


def _asked_axes(inputs: Sequence[TensorSpec], asked: Sequence[Mapping[str, ShapeRange]]) -> dict[str, Extent]:
    return {
        axis_name(spec, position): extent
        for one in asked
        for spec in inputs
        if spec.name in one
        for position, extent in enumerate(zip(one[spec.name].min, one[spec.name].opt, one[spec.name].max, strict=True))
        if not isinstance(spec.shape[position], int)
    }


def _check_room(
    part: SourcePart, found: tuple[ProfileSet, ...], was_asked: bool, room: Room, notes: StageNotes
) -> None:
    largest = [_largest(one) for one in found]
    worst = max(largest, key=room.needed)
    if room.fits(worst):
        return
    least = max(map(room.least, largest))
    if least > room.memory and was_asked:
        raise UsageError(
            f"shapes: {part.name} at {_ranges(found) or 'these shapes'} has {least / 1e9:.1f} GB of weights, inputs "
            f"and outputs alone, {room.target} has {room.memory / 1e9:g} GB: ask for {_smaller(found)}"
        )
    advice = f"ask for {_smaller(found)}" if was_asked or any(found) else "choose a smaller precision or model"
    notes.decline(
        f"{part.name}: may not fit: at {_ranges(found) or 'its shapes'} it takes {room.text(worst)}: {advice}"
    )


def _smaller(found: tuple[ProfileSet, ...]) -> str:
    return "smaller --max-shapes" if any(found) else "smaller --shapes"


def _largest(profiles: ProfileSet) -> dict[str, tuple[int, ...]]:
    return {name: profile.max for name, profile in profiles.items()}


def _ranges(sets: tuple[ProfileSet, ...]) -> str:
    return "; ".join(
        ", ".join(f"{name}:{_text(p.min)} to {_text(p.max)}" for name, p in one.items()) for one in sets if one
    )


def _feeds(inputs: tuple[TensorSpec, ...], shapes: Shapes, example: Sample) -> Sample:
    """Values that are valid wherever they are looked up: an example's, else index 0, and masks that hide nothing."""
    feeds: Sample = {}
    for spec in inputs:
        given = example.get(spec.name)
        value = given.flat[0] if given is not None and given.size else int("mask" in spec.name or spec.dtype == "bool")
        shape = shapes.get(spec.name) or tuple(d for d in spec.shape if isinstance(d, int))
        feeds[spec.name] = np.full(shape, value, dtype=spec.dtype)
    return feeds


def _is_numeric(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(("float", "int", "uint", "bool")) and not spec.dtype.startswith("float8")


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
