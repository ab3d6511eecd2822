"""Which optimization profile of an engine takes the shapes of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, prod

from edgebig.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Span:
    """The shapes of one input that a profile takes: smallest, the one that it is tuned for, largest."""

    min: Shape
    opt: Shape
    max: Shape

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether every axis lies within."""
        return len(shape) == len(self.min) and all(
            low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True)
        )

    def __str__(self) -> str:
        return text(self.min) if self.min == self.max else f"{text(self.min)} to {text(self.max)}"


Profile = Mapping[str, Span]
"""A profile's spans by input; an input whose shape is fixed need not be there."""


def text(shape: Sequence[int]) -> str:
    """As messages write a shape."""
    return "x".join(map(str, shape)) or "scalar"


def choose_profile(profiles: Sequence[Profile], shapes: Mapping[str, Shape], *, current: int = 0) -> int:
    """The index of the profile to run on.

    Of those that take all shapes the one whose best shapes are nearest in size, in the sum over all inputs of the
    absolute logarithm of the ratio of element counts; the current one where it is as near, since a change costs time.

    Raises:
        InputError: none takes the shapes; names the input and the range of every profile.
    """
    fitting = [
        index
        for index, profile in enumerate(profiles)
        if all(profile[name].takes(shape) for name, shape in shapes.items() if name in profile)
    ]
    if not fitting:
        raise InputError(_refusal(profiles, shapes))
    return min(fitting, key=lambda index: (_distance(profiles[index], shapes), index != current, index))


def _distance(profile: Profile, shapes: Mapping[str, Shape]) -> float:
    total = 0.0
    for name, shape in shapes.items():
        if name in profile:
            total += abs(log(max(1, prod(shape)) / max(1, prod(profile[name].opt))))
    return round(total, 9)


def _refusal(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> str:
    """Names the first input that no profile takes; or the inputs together, where each has one and none has all."""
    for name, shape in shapes.items():
        spans = [profile[name] for profile in profiles if name in profile]
        if spans and not any(span.takes(shape) for span in spans):
            ranges = " or ".join(dict.fromkeys(map(str, spans)))
            return (
                f"input {name!r} has the shape {text(shape)}, the engine takes {ranges}: "
                "use such a shape, or compile with --shapes"
            )
    found = ", ".join(f"{name} {text(shape)}" for name, shape in shapes.items())
    takes = "; ".join(
        f"profile {index}: {', '.join(f'{name} {span}' for name, span in profile.items())}"
        for index, profile in enumerate(profiles)
    )
    return f"no profile of the engine takes {found} together ({takes}): use such shapes, or compile with --shapes"
