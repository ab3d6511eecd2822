"""Quantization: a plan of number formats, made for a target, and the graph that carries it out."""

from edgebig.quantize.insert import insert_qdq
from edgebig.quantize.lower import lower_floats
from edgebig.quantize.masks import clamp_masks
from edgebig.quantize.plan import Plan
from edgebig.quantize.rules import check_precision, make_plan, observed_tensors, planned_tensors

__all__ = [
    "Plan",
    "check_precision",
    "clamp_masks",
    "insert_qdq",
    "lower_floats",
    "make_plan",
    "observed_tensors",
    "planned_tensors",
]
