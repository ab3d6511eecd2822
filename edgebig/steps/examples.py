"""Brings a source's example inputs to the shapes that an engine takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgebig.build import ProfileSet
from edgebig.steps.work import Sample


def fit_examples(examples: Sequence[Sample], sets: Sequence[ProfileSet]) -> list[Sample]:
    """At least one example for each set of shapes, so that every phase is compared with the original.

    Args:
        examples: inputs at which the model computes. Where none lies within a set, the first is cut or repeated along
            its axes to the set's best shapes: tokens stay tokens, and masks stay masks.
        sets: of the engine; none where every shape is fixed.
    """
    if not examples or not sets:
        return list(examples)
    found = [one for one in examples if any(_lies_within(one, shapes) for shapes in sets)]
    for shapes in sets:
        if not any(_lies_within(one, shapes) for one in found):
            found.append(_at_best(examples[0], shapes))
    return found


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
