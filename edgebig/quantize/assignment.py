"""Assignment: which number format each layer is to get, before the rules of the target say what is possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from edgebig.quantize.plan import Plan

FLOAT = "float"
"""The format of a layer that is not quantized: FP16, BF16 or FP32, as the rest of the model."""

WEIGHT_ONLY = {"int4": "int4", "int8-weights": "int8", "nvfp4": "fp4"}
"""Formats that leave activations in float, with the precision that a target must have for them."""

REFUSED = ("mxfp8",)
"""Formats that people ask for and nothing takes: a layer that is given one stays float, with the reason."""

LAYER_FORMATS = ("int8", "fp8", *WEIGHT_ONLY, *REFUSED, FLOAT)
"""Formats that a layer may be given."""


_KEPT = "edgebig.keep_float"
"""Key of a node's metadata, whose value says why a repair wants it in float."""


def keep_float(node: ir.Node, reason: str) -> None:
    """Marks a node that a repair has made: it stays float in every plan, and the plan says why."""
    node.metadata_props[_KEPT] = reason


@dataclass(frozen=True)
class Assignment:
    """The format of each layer.

    Attributes:
        default: of layers that are not named.
        layers: by node name, one of ``LAYER_FORMATS``.
        reasons: why a layer has its format, where somebody said.
        keep_float: patterns (``fnmatch``) of nodes that stay float, whatever the others say.
    """

    default: str
    layers: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    keep_float: Sequence[str] = ()

    def of(self, node: ir.Node, plan: Plan) -> str:
        """The node's format; why one stays float is noted in the plan."""
        name = str(node.name)
        for pattern in self.keep_float:
            if fnmatchcase(name, pattern):
                plan.skipped.setdefault(name, f"kept in float by the recipe ({pattern})")
                return FLOAT
        if _KEPT in node.metadata_props:
            plan.skipped.setdefault(name, node.metadata_props[_KEPT])
            return FLOAT
        found = self.layers.get(name, self.default)
        if found == FLOAT:
            plan.skipped.setdefault(name, self.reasons.get(name, "kept in float by the plan"))
        return found

    def formats(self) -> set[str]:
        """All that are asked for, ``float`` left out."""
        return {self.default, *self.layers.values()} - {FLOAT}
