"""Passes: each changes a graph in one way and reports what it did and what it declined.

A new pass is a module here with a frozen dataclass that has a ``name`` and is callable as
:class:`Pass` says; ``CONTRIBUTING.md`` walks through one.
"""

from edgebig.graph.passes.base import Pass, PassReport, run_passes
from edgebig.graph.passes.expand_qoperators import ExpandQOperators
from edgebig.graph.passes.fold_batchnorm import FoldBatchNorm
from edgebig.graph.passes.fold_constants import FoldConstants
from edgebig.graph.passes.freeze_inputs import FreezeInputs
from edgebig.graph.passes.make_gemms import MakeGemms
from edgebig.graph.passes.name_nodes import NameNodes
from edgebig.graph.passes.raise_opset import RaiseOpset
from edgebig.graph.passes.raise_to_float32 import RaiseToFloat32
from edgebig.graph.passes.remove_noops import RemoveNoOps
from edgebig.graph.passes.remove_quantization import RemoveQuantization, is_for_tensorrt, is_quantized
from edgebig.graph.passes.set_shapes import SetShapes

__all__ = [
    "ExpandQOperators",
    "FoldBatchNorm",
    "FoldConstants",
    "FreezeInputs",
    "MakeGemms",
    "NameNodes",
    "Pass",
    "PassReport",
    "RaiseOpset",
    "RaiseToFloat32",
    "RemoveNoOps",
    "RemoveQuantization",
    "SetShapes",
    "is_for_tensorrt",
    "is_quantized",
    "run_passes",
]
