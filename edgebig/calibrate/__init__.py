"""Calibration: which values the tensors of a graph take on real samples."""

from edgebig.calibrate.checkpoint import Checkpoint
from edgebig.calibrate.collect import Collected, collect, collect_ranges
from edgebig.calibrate.data.samples import Sample, Samples, open_samples
from edgebig.calibrate.feedback import Feedback, GeneratedText, NoFeedback, RecurrentState
from edgebig.calibrate.methods import METHODS, MinMax
from edgebig.calibrate.ranges import Range, Ranges
from edgebig.calibrate.report import SetCheck, describe, unstable
from edgebig.states import find_states

__all__ = [
    "METHODS",
    "Checkpoint",
    "Collected",
    "Feedback",
    "GeneratedText",
    "MinMax",
    "NoFeedback",
    "Range",
    "Ranges",
    "RecurrentState",
    "Sample",
    "Samples",
    "SetCheck",
    "collect",
    "collect_ranges",
    "describe",
    "find_states",
    "open_samples",
    "unstable",
]
