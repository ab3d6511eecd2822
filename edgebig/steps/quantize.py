"""Brings a graph into the precision that was asked for."""

from __future__ import annotations

from dataclasses import replace

from edgebig.calibrate import Ranges
from edgebig.graph.work import observed_shapes
from edgebig.quantize import FLOAT
from edgebig.quantize.stem import stem_layers
from edgebig.request import Request
from edgebig.source import Source
from edgebig.stages import StageNotes
from edgebig.steps.lower import Layers, lower_part, reference_level
from edgebig.steps.plans import plan_of
from edgebig.steps.search import search_part
from edgebig.steps.work import PartWork
from edgebig.steps.yardstick import make_yardstick


def quantize_part(part: PartWork, source: Source, request: Request, notes: StageNotes) -> None:
    """Sets ``lowered``, ``precision``, ``plan`` and ``quantized``."""
    yardstick = make_yardstick(part, source, request, notes)
    written = plan_of(part, request)
    if request.recipe.precision == "auto":
        search_part(part, request, yardstick, notes)
    elif written is None:
        lower_part(part, request, request.recipe.precision, _stem_in_float(part, request), notes)
    else:
        part.ranges = _with_scales(part.ranges, written.ranges())
        lower_part(part, request, written.precision, Layers(written.formats(), written.reasons()), notes)
    part.evaluated = yardstick.evaluate(part.result(), reference_level(part, request))
    if part.evaluated is not None:
        notes.note(f"{part.name}: {part.evaluated.text}")


def _stem_in_float(part: PartWork, request: Request) -> Layers:
    """What INT8 on a CPU leaves in float because it would not pay."""
    if request.recipe.precision != "int8" or request.target.is_nvidia:
        return Layers()
    reasons = stem_layers(part.graph, observed_shapes(part.graph, part.examined().inputs[0]))
    return Layers(dict.fromkeys(reasons, FLOAT), reasons)


def _with_scales(collected: Ranges | None, written: Ranges) -> Ranges:
    """The ranges, but those of a plan where it has some: somebody may have edited its scales."""
    if collected is None:
        return written
    return replace(collected, by_tensor={**collected.by_tensor, **written.by_tensor})
