"""Brings a source's example inputs to the shapes that an engine takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgebig.build import Profile, ProfileSet
from edgebig.spec import Dim, TensorSpec
from edgebig.steps.work import Sample


def fit_examples(
    examples: Sequence[Sample], sets: Sequence[ProfileSet], inputs: Sequence[TensorSpec] = (), *, any_size: bool = False
) -> list[Sample]:
    """At least one example for each set of shapes, so that every phase is compared with the original.

    Args:
        examples: inputs at which the model computes. Where none lies within a set, the first is cut or repeated along
            its axes to the set's best shapes: tokens stay tokens, and masks stay masks.
        sets: of the engine; none where every shape is fixed.
        inputs: of the graph, whose fixed sizes every example must have.
        any_size: whether the engine takes any size of an axis that is not fixed.
    """
    fixed = {spec.name: spec.shape for spec in inputs if any(isinstance(dim, int) for dim in spec.shape)}
    if not examples or not (sets or fixed):
        return list(examples)
    whole = [{**_profiles(inputs), **shapes} for shapes in (sets or ({},))]
    ranges = [{}] if any_size else whole
    found = [one for one in examples if _has_sizes(one, fixed) and any(_lies_within(one, r) for r in ranges)]
    for shapes, limits in zip(whole, ranges, strict=False):
        if not any(_lies_within(one, limits) for one in found):
            found.append(_at_best(examples[0], shapes))
    return found


def _profiles(inputs: Sequence[TensorSpec]) -> ProfileSet:
    """Of the inputs whose every size is fixed."""
    shapes = {spec.name: tuple(dim for dim in spec.shape if isinstance(dim, int)) for spec in inputs if spec.is_static}
    return {name: Profile(shape, shape, shape) for name, shape in shapes.items()}


def _has_sizes(example: Sample, fixed: Mapping[str, Sequence[Dim]]) -> bool:
    return all(
        len(example[name].shape) == len(shape)
        and all(not isinstance(dim, int) or dim == size for dim, size in zip(shape, example[name].shape, strict=True))
        for name, shape in fixed.items()
        if name in example
    )


def best_shapes(shapes: ProfileSet) -> dict[str, tuple[int, ...]]:
    """What an engine is tuned for, by input."""
    return {name: profile.opt for name, profile in shapes.items()}


def _lies_within(example: Sample, shapes: ProfileSet) -> bool:
    return all(
        len(example[name].shape) == len(profile.min)
        and all(a <= size <= b for a, size, b in zip(profile.min, example[name].shape, profile.max, strict=True))
        for name, profile in shapes.items()
        if name in example
    )


def _at_best(example: Sample, shapes: ProfileSet) -> Sample:
    fitted = dict(example)
    for name, profile in shapes.items():
        if name in example:
            value = example[name]
            for axis, size in enumerate(profile.opt):
                if value.shape[axis]:
                    value = value.take(np.arange(size) % value.shape[axis], axis)
                else:  # nothing to repeat in an empty cache
                    value = np.zeros((*value.shape[:axis], size, *value.shape[axis + 1 :]), value.dtype)
            fitted[name] = value
    return fitted
