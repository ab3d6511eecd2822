"""Carries a plan out, its weights rounded as the recipe's repairs say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgebig.graph import Graph
from edgebig.quantize import Plan, insert_qdq
from edgebig.quantize.repair.awq import awq
from edgebig.quantize.repair.rounding import Method
from edgebig.quantize.repair.weights import round_weights
from edgebig.recipe import Repair
from edgebig.stages import StageNotes
from edgebig.steps.work import PartWork

_NEED_SAMPLES = ("awq", "gptq", "adaround")


def quantize_weights(
    graph: Graph, plan: Plan, part: PartWork, repairs: Sequence[Repair], notes: StageNotes
) -> tuple[str, ...]:
    """Puts the plan's Q/DQ pairs into the graph, sets ``exact``, and returns a line for each repair of weights.

    Args:
        graph: the float graph that the plan was made for.
        plan: what to do.
        part: whose calibration samples tell which weights count.
        repairs: what was asked for.
        notes: says what was not possible.
    """
    wanted = [r for r in repairs if r in _NEED_SAMPLES]
    if wanted and part.samples is None:
        notes.decline(f"{part.name}: {', '.join(wanted)} needs --calib: without it weights are rounded to nearest")
        wanted = []
    done: list[str] = []
    if "mse" in repairs:
        plan.weights = [replace(w, clip="mse") for w in plan.weights]
        done.append("scales of weights with the least squared error")
    rounding: Method = "adaround" if "adaround" in wanted else "gptq" if "gptq" in wanted else "nearest"
    scales = None
    if "awq" in wanted and part.samples is not None:
        notes.progress("AWQ")
        report = awq(graph, plan, part.samples)
        done.append(f"AWQ: {sum(s.alpha > 0 for s in report.scaled)} inputs scaled")
        notes.decline(*(f"{part.name}: AWQ: {line}" for line in report.declined))
        # GPTQ moves the errors itself, and does better without the clipped scales
        scales = report.scales if rounding == "nearest" else None
    part.exact = graph.clone()
    rounded = {}
    if rounding != "nearest" and part.samples is not None:
        notes.progress(rounding)
        rounded = round_weights(graph, plan, part.samples, method=rounding)
        done.append(f"{'GPTQ' if rounding == 'gptq' else 'adaptive rounding'} of {len(rounded)} weights")
    insert_qdq(graph, plan, rounded, scales)
    return tuple(done)
