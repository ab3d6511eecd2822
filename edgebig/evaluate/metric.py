"""Metric: what is kept of one item, and the score that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgebig.errors import MissingExtra
from edgebig.evaluate.item import Item, Outputs

Need = Literal["class", "text", "number", "mask", "boxes", "tokens", "reference", "any"]
"""What a label is: a class or an array of classes, a text or several, a number, a map of classes, boxes, tokens
(the input's own where there is no label), the outputs of a reference, or anything."""

Scale = Literal["fraction", "number"]


@dataclass(frozen=True)
class Metric:
    """A metric. One object may measure several models, one after the other.

    Attributes:
        name: ``accuracy``, ``wer`` …
        needs: what labels it takes.
        higher_is_better: its direction.
        scale: ``fraction`` is from 0 to 1 and shown as percent; ``number`` is shown as it is.
        measure: what is kept of an item and its outputs, one for each of its samples.
        total: the score: of the sum of what was kept where ``sums``, else of the list of it.
        sums: whether what is kept is a float64 vector of fixed length that may be added up.
        resamples: how many bootstrap resamples its interval is made of; few where ``total`` is slow.
        trials: successes and trials in a sum, where the score is their ratio.
    """

    name: str
    needs: Need
    higher_is_better: bool
    scale: Scale
    measure: Callable[[Item, Sequence[Outputs]], Any]
    total: Callable[[Any], float]
    sums: bool = True
    resamples: int = 1000
    trials: Callable[[Any], tuple[float, float]] | None = None

    def drop(self, reference: float, found: float) -> float:
        """How much worse ``found`` is than ``reference``, in the metric's own unit; negative where it is better."""
        if reference == found:  # infinities too
            return 0.0
        return reference - found if self.higher_is_better else found - reference

    def text(self, value: float, *, is_difference: bool = False) -> str:
        """A value for people: ``96.67 %``, a difference of fractions as ``0.10 points``."""
        if self.scale == "fraction":
            return f"{value * 100:.2f} points" if is_difference else f"{value * 100:.2f} %"
        return f"{value:.6g}"


def missing_library(error: ImportError) -> MissingExtra:
    """What to install where a metric's library is not here."""
    return MissingExtra("eval", (error.name or "").partition(".")[0])
