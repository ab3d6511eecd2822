"""Whether a graph fits the memory of its target, as far as that can be told before it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgebig.graph import Graph
from edgebig.request import Request
from edgebig.steps.sizes import Sizer

Shapes = Mapping[str, tuple[int, ...]]

SHARE = 0.75
"""Of a device's memory that one engine may count on: the driver, the engine's code and other programs take the rest."""

_WEIGHTS = {"fp32": 1.0, "fp16": 0.5, "bf16": 0.5, "int4": 0.125, "nvfp4": 0.125}
_OTHER_WEIGHTS = 0.25
"""Bytes of a weight in each precision, over float32's: at the least, since some layers stay in float."""


@dataclass
class Room:
    """What a graph needs of its target's memory.

    Attributes:
        sizer: of the graph in float32.
        target: its name.
        memory: of the target, in bytes.
        weight_share, value_share: bytes of a weight, and of a value, over those in the graph.
    """

    sizer: Sizer
    target: str
    memory: int
    weight_share: float
    value_share: float

    @classmethod
    def of(cls, graph: Graph, request: Request) -> Room | None:
        """``None`` where the target's memory is not known."""
        if request.target.memory_gb is None:
            return None
        precision = request.recipe.precision
        share = _WEIGHTS.get(precision, _OTHER_WEIGHTS)
        memory = int(request.target.memory_gb * 1e9)
        return cls(Sizer(graph), request.target.name, memory, share, 1.0 if precision == "fp32" else 0.5)

    def fits(self, shapes: Shapes) -> bool:
        """Whether the estimate stays within the share; yes where nothing can be told."""
        return self.needed(shapes) <= SHARE * self.memory

    def needed(self, shapes: Shapes) -> int:
        """Bytes of weights, and of the values that live at once: an estimate."""
        values = self.sizer.values(shapes)
        return self._weights() + int(self.value_share * (0 if values is None else max(values.peak, values.held)))

    def least(self, shapes: Shapes) -> int:
        """Bytes of weights, inputs and outputs: less is not possible."""
        values = self.sizer.values(shapes)
        return self._weights() + int(self.value_share * (0 if values is None else values.held))

    def text(self, shapes: Shapes) -> str:
        """The figures, for people."""
        return (
            f"about {self.needed(shapes) / 1e9:.1f} GB, {self.target} has {self.memory / 1e9:g} GB, "
            f"of which {SHARE:.0%} are counted on"
        )

    def _weights(self) -> int:
        return int(self.weight_share * self.sizer.graph.weight_bytes)
