"""Calibration without data: samples made from what the model itself tells."""

from edgebig.calibrate.synthetic.makers import Aids
from edgebig.calibrate.synthetic.pool import strongest, synthetic_samples

__all__ = ["Aids", "strongest", "synthetic_samples"]
