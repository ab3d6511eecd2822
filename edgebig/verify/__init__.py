"""Verification: the result against the original, on inputs that were not used for calibration."""

from edgebig.verify.bisect import Finding, find_smallest, save_finding
from edgebig.verify.gate import check_faithful, outputs_of, similarity_of
from edgebig.verify.golden import Answers, Golden, save_golden
from edgebig.verify.inputs import made_inputs
from edgebig.verify.layers import Layer, compare_layers, first_jump
from edgebig.verify.subgraph import expose_quantized, with_float_inputs
from edgebig.verify.timing import layer_times

__all__ = [
    "Answers",
    "Finding",
    "Golden",
    "Layer",
    "check_faithful",
    "compare_layers",
    "expose_quantized",
    "find_smallest",
    "first_jump",
    "layer_times",
    "made_inputs",
    "outputs_of",
    "save_finding",
    "save_golden",
    "similarity_of",
    "with_float_inputs",
]
