"""Calibration data: files, folders, tables and Python values as a stream of checked samples."""

from edgebig.calibrate.data.samples import Located, Preparers, Reading, Sample, Samples, open_samples

__all__ = ["Located", "Preparers", "Reading", "Sample", "Samples", "open_samples"]
