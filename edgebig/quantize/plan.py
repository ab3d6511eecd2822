"""Plan: which tensor gets which number format. Plain data, that names tensors and nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from edgebig.quantize.formats import Format, ScaleMethod


@dataclass(frozen=True)
class ActivationChoice:
    """A Q/DQ pair on an activation.

    Attributes:
        format: its number format.
        scale: one for the whole tensor.
        zero_point: 0 for symmetric formats.
        readers: names of the nodes that read it dequantized; ``None``: all do.
    """

    format: Format
    scale: float
    zero_point: int
    readers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class WeightChoice:
    """How the weight that a node reads is quantized.

    Attributes:
        node: the node's name.
        input: index of its input.
        format: the number format.
        axis: the channel axis, or the blocked axis; ``None`` for one scale.
        block: elements in a block; ``None`` for a scale by channel.
        clip: how scales are made: of the largest magnitude, or with the least squared error.
    """

    node: str
    input: int
    format: Format
    axis: int | None
    block: int | None = None
    clip: ScaleMethod = "max"

    @property
    def granularity(self) -> str:
        """For people."""
        if self.block is not None:
            return f"blocks of {self.block}"
        return "per channel" if self.axis is not None else "per tensor"


@dataclass
class Plan:
    """What becomes of each tensor.

    Attributes:
        activations: by tensor name.
        weights: of nodes.
        integer_biases: names of nodes whose bias becomes INT32, with the scale of input times weight.
        embeddings: names of Gather nodes whose table becomes INT8 with a scale for each row.
        skipped: why a node stays float, by its name.
    """

    activations: dict[str, ActivationChoice] = field(default_factory=dict)
    weights: list[WeightChoice] = field(default_factory=list)
    integer_biases: list[str] = field(default_factory=list)
    embeddings: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is quantized."""
        return not self.weights and not self.activations and not self.embeddings

    def skipped_lines(self) -> tuple[str, ...]:
        """What stays float, and why, for the report."""
        return tuple(f"{node}: {reason}" for node, reason in self.skipped.items())

    def summary(self) -> tuple[str, ...]:
        """Lines for the report."""
        activations = Counter(a.format.name for a in self.activations.values())
        weights = Counter(f"{w.format.name}, {w.granularity}" for w in self.weights)
        return (
            *(f"{n} activations in {name}" for name, n in activations.items()),
            *(f"{n} weights in {name}" for name, n in weights.items()),
            *([f"{len(self.embeddings)} embeddings in int8, per row"] if self.embeddings else []),
        )
