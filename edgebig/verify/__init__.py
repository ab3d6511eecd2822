"""Verification: the result against the original, on inputs that were not used for calibration."""

from edgebig.verify.gate import check_faithful, outputs_of, similarity_of
from edgebig.verify.golden import Golden, save_golden
from edgebig.verify.inputs import made_inputs

__all__ = ["Golden", "check_faithful", "made_inputs", "outputs_of", "save_golden", "similarity_of"]
