"""Brings a graph into the precision that was asked for."""

from __future__ import annotations

from edgebig.calibrate import Ranges
from edgebig.request import Request
from edgebig.stages import StageNotes
from edgebig.steps.lower import Layers, lower_part
from edgebig.steps.plans import plan_of
from edgebig.steps.search import search_part
from edgebig.steps.work import PartWork


def quantize_part(part: PartWork, request: Request, notes: StageNotes) -> None:
    """Sets ``lowered``, ``precision``, ``plan`` and ``quantized``."""
    if request.recipe.precision == "auto":
        search_part(part, request, notes)
        return
    written = plan_of(part, request)
    if written is None:
        lower_part(part, request, request.recipe.precision, Layers(), notes)
        return
    # scales of the plan go before those of the calibration: somebody may have edited them
    fixed = written.ranges()
    part.ranges = (
        fixed
        if part.ranges is None
        else Ranges(
            {**part.ranges.by_tensor, **fixed.by_tensor}, part.ranges.samples, part.ranges.method, part.ranges.source
        )
    )
    lower_part(part, request, written.precision, Layers(written.formats(), written.reasons()), notes)
