"""Calibration: which values the tensors of a graph take on real samples."""

from edgebig.calibrate.collect import collect_ranges
from edgebig.calibrate.ranges import Range, Ranges
from edgebig.calibrate.samples import Sample, Samples, open_samples

__all__ = ["Range", "Ranges", "Sample", "Samples", "collect_ranges", "open_samples"]
