"""Chooses the shapes that inputs with dynamic axes have, by computing the graph at them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgebig.build import Profile, derive_profiles
from edgebig.errors import GraphError
from edgebig.graph import Executor, Graph
from edgebig.recipe import ShapeRange
from edgebig.source import SourcePart
from edgebig.spec import TensorSpec
from edgebig.stages import StageNotes
from edgebig.steps.sizes import sizes_of
from edgebig.steps.work import Sample

_LARGEST = 1 << 30
"""Bytes of weights above which trials would take too long."""

_MOST = 2 << 30
"""Bytes of activations, in float32, of a trial: larger shapes are not guessed, but can be asked for."""


def choose_profiles(
    part: SourcePart, graph: Graph, asked: Mapping[str, ShapeRange], notes: StageNotes
) -> dict[str, Profile]:
    """Shapes at whose ends the graph computes here, where it is small enough to be tried; says so where it moved them.

    Raises:
        UsageError: an asked shape does not fit its input.
    """
    inputs = graph.inputs
    guessed = derive_profiles(inputs, asked, part.axes)
    if set(guessed) <= set(asked) or graph.weight_bytes > _LARGEST or not all(map(_is_numeric, inputs)):
        return guessed
    example = part.examples[0] if part.examples else {}
    try:
        executor = Executor(graph, "off")
    except GraphError:  # the stages that need it say why
        return guessed
    refused: list[str] = []
    with executor:

        def trial(shapes: Mapping[str, tuple[int, ...]]) -> str:
            if any(
                name in guessed and math.prod(shape) > math.prod(guessed[name].opt) for name, shape in shapes.items()
            ):
                needed = sizes_of(graph, shapes).get("activation_bytes", 0)
                if needed > _MOST:
                    return f"its activations take {needed / 1e9:.1f} GB there"
            try:
                executor.run(_feeds(inputs, shapes, example))
            except GraphError as error:
                refused.append(" ".join(str(error).split()))
                return refused[-1]
            return ""

        sizes = {name: value.shape for name, value in example.items()}
        found = derive_profiles(inputs, asked, part.axes, trial=trial, example=sizes)
    if found != guessed:
        ranges = ", ".join(f"{name}:{_text(p.min)} to {_text(p.max)}" for name, p in found.items())
        notes.note(f"{part.name}: shapes at which the model computes, found by trying: {ranges}")
    elif refused:
        why = f"{part.name}: computes at none of the shapes that were tried: give --shapes ({refused[0]})"
        notes.decline(why[:500])
    return found


def _feeds(inputs: tuple[TensorSpec, ...], shapes: Mapping[str, tuple[int, ...]], example: Sample) -> Sample:
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
