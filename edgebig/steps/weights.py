"""Carries a plan out, its weights rounded as the recipe's repairs say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgebig.graph import Graph
from edgebig.quantize import Plan, insert_qdq
from edgebig.quantize.repair.awq import awq
from edgebig.quantize.repair.bias import add_to_bias, bias_shifts
from edgebig.quantize.repair.rounding import Method
from edgebig.quantize.repair.weights import round_weights
from edgebig.recipe import Repair
from edgebig.similarity import Similarity
from edgebig.stages import StageNotes
from edgebig.steps.work import PartWork
from edgebig.verify import outputs_of, similarity_of

Array = np.ndarray[Any, Any]

_BIASED = {"Conv", "ConvTranspose", "Gemm"}
_NEED_SAMPLES = ("awq", "gptq", "adaround", "bias")


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
    rounding = rounding_of(wanted)
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
    if "bias" in wanted and part.samples is not None:
        notes.progress("bias correction")
        done += _correct_biases(graph, plan, part, rounded, scales, notes)
    insert_qdq(graph, plan, rounded, scales)
    return tuple(done)


def rounding_of(repairs: Sequence[Repair]) -> Method:
    """How these repairs round weights."""
    return "adaround" if "adaround" in repairs else "gptq" if "gptq" in repairs else "nearest"


def _correct_biases(
    graph: Graph,
    plan: Plan,
    part: PartWork,
    rounded: Mapping[str, Array],
    scales: Mapping[str, Array] | None,
    notes: StageNotes,
) -> list[str]:
    """Adds to the biases that are there what quantization shifts outputs by, if that brings held-out outputs nearer."""

    def loss(biased: Graph) -> float:
        quantized = biased.clone()
        insert_qdq(quantized, plan, rounded, scales)
        found = similarity_of(part.examples().outputs, outputs_of(quantized, part.examples().inputs, "off"))
        return 1 - Similarity.worst(found.values()).cosine

    biased = _with_place_for_bias(graph)
    nodes = [w.node for w in plan.weights if w.node in biased]
    quantized = graph.clone()
    insert_qdq(quantized, plan, rounded, scales)
    shifts = bias_shifts(graph, quantized, nodes, part.samples or ())
    corrected = graph.clone()
    declined = add_to_bias(corrected, shifts)
    before, after = loss(graph), loss(corrected)
    if after >= before:
        notes.decline(
            f"{part.name}: bias correction was not taken: the loss is {after:.2g} with it, {before:.2g} without"
        )
        return []
    add_to_bias(graph, shifts)
    notes.decline(*(f"{part.name}: {line}" for line in declined))
    return [f"biases of {len(shifts) - len(declined)} layers corrected: the loss is {after:.2g}, {before:.2g} without"]


def _with_place_for_bias(graph: Graph) -> set[str]:
    """Layers whose bias can be corrected: a convolution without one would get one, and then another plan."""
    return {
        str(node.name)
        for node in graph.model.graph
        if node.op_type == "MatMul" or (node.op_type in _BIASED and len(node.inputs) > 2 and node.inputs[2] is not None)
    }
