"""Quantization: a plan of number formats, made for a target, and the graph that carries it out."""

from edgebig.quantize.assignment import FLOAT
from edgebig.quantize.insert import insert_qdq
from edgebig.quantize.lower import lower_floats
from edgebig.quantize.masks import clamp_masks
from edgebig.quantize.plan import Plan
from edgebig.quantize.plan_file import PlanFile, PlannedLayer
from edgebig.quantize.rules import (
    check_precision,
    layer_formats,
    make_plan,
    observed_tensors,
    planned_layers,
    planned_tensors,
)

__all__ = [
    "FLOAT",
    "Plan",
    "PlanFile",
    "PlannedLayer",
    "check_precision",
    "clamp_masks",
    "insert_qdq",
    "layer_formats",
    "lower_floats",
    "make_plan",
    "observed_tensors",
    "planned_layers",
    "planned_tensors",
]
