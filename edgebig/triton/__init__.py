"""Bundle -> model repository of the Triton Inference Server."""

from edgebig.triton.model import TritonModel, triton_models
from edgebig.triton.repository import write_repository

__all__ = ["TritonModel", "triton_models", "write_repository"]
