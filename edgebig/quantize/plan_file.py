"""A plan as a file: what each layer computes with, why, and what was measured. People read it and edit it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.calibrate.ranges import Range, Ranges
from edgebig.graph import Graph
from edgebig.quantize.assignment import FLOAT
from edgebig.quantize.formats import FP8, INT4, INT8, NVFP4
from edgebig.quantize.plan import Plan, WeightChoice
from edgebig.quantize.plan_fields import ACTIVATION_FORMATS, VERSION, read_plan

_LAYERS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Attention"}
_WEIGHTS_ALONE = {"LSTM", "GRU", "RNN"}
_ALONE = {INT4.name: "int4", INT8.name: "int8-weights", NVFP4.name: "nvfp4"}
"""What a layer's format is called whose weight alone is quantized."""


@dataclass(frozen=True)
class PlannedLayer:
    """One line of the plan.

    Attributes:
        node: the layer's name.
        op: its operator.
        format: one of ``LAYER_FORMATS``.
        weight: how its weight is scaled, for people; empty for a float one.
        input: the quantized tensor that it reads, for people; empty where it reads floats.
        reason: why it has this format.
        measured: figures of the search: ``drop_alone``, ``seconds_saved``.
    """

    node: str
    op: str
    format: str
    weight: str = ""
    input: str = ""
    reason: str = ""
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanFile:
    """A plan that was written down.

    Attributes:
        target, precision: what it was made for.
        layers: every layer that could be quantized, in the graph's order.
        activations: by tensor, ``format``, ``scale`` and ``zero_point``.
        repairs: what was done to the weights first, one line each.
    """

    target: str
    precision: str
    layers: tuple[PlannedLayer, ...]
    activations: Mapping[str, Mapping[str, Any]]
    repairs: tuple[str, ...] = ()

    def formats(self) -> dict[str, str]:
        """The format of each layer, by its name."""
        return {layer.node: layer.format for layer in self.layers}

    def reasons(self) -> dict[str, str]:
        """Why each has it, where the file says; a reason for what somebody changed by hand says nothing."""
        return {
            layer.node: layer.reason
            for layer in self.layers
            if layer.reason and bool(layer.weight) == (layer.format != FLOAT)
        }

    def ranges(self) -> Ranges:
        """The ranges that give the activations' scales and zero points again."""
        found = {}
        for name, row in self.activations.items():
            # products of float32 and 8 bits are exact in float64, and so is what is computed back from them
            fmt, scale, zero = (
                ACTIVATION_FORMATS[row["format"]],
                float(np.float32(row["scale"])),
                int(row["zero_point"]),
            )
            found[name] = Range((fmt.low - zero) * scale, (fmt.high - zero) * scale)
        return Ranges(found, 0, "plan", "the plan")

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "edgebig_plan": VERSION,
            "target": self.target,
            "precision": self.precision,
            "repairs": list(self.repairs),
            "layers": [_row(layer) for layer in self.layers],
            "activations": {name: dict(row) for name, row in self.activations.items()},
        }

    @classmethod
    def of(
        cls,
        graph: Graph,
        plan: Plan,
        target: str,
        precision: str,
        *,
        reasons: Mapping[str, str] | None = None,
        measured: Mapping[str, Mapping[str, float]] | None = None,
        repairs: tuple[str, ...] = (),
    ) -> PlanFile:
        """What ``plan`` does to each layer of the float ``graph``."""
        weights = {w.node: w for w in plan.weights}
        named = {*plan.embeddings, *weights}
        reasons, measured, layers = reasons or {}, measured or {}, []
        for node in graph.model.graph:
            name = str(node.name)
            if node.op_type not in _LAYERS and name not in named:
                continue
            fmt, how, tensor = _format(node, plan, weights.get(name))
            default = "the rules of the target take it" if fmt != FLOAT else "the rules of the target leave it"
            reason = plan.skipped.get(name) if fmt == FLOAT else reasons.get(name)
            layers.append(PlannedLayer(name, node.op_type, fmt, how, tensor, reason or default, measured.get(name, {})))
        activations = {
            name: {"format": a.format.name, "scale": _short(a.scale), "zero_point": a.zero_point}
            for name, a in plan.activations.items()
        }
        return cls(target, precision, tuple(layers), activations, repairs)

    @classmethod
    def all_float(cls, graph: Graph, target: str, precision: str, reason: str) -> PlanFile:
        """The plan of a graph in which nothing is quantized, for one reason."""
        return cls.of(graph, Plan(skipped={str(node.name): reason for node in graph.model.graph}), target, precision)

    @classmethod
    def load(cls, path: str | Path) -> PlanFile:
        """Reads a plan.

        Raises:
            RecipeError: no such file, or it is not a plan; the field is named.
        """
        data = read_plan(path)
        layers = tuple(PlannedLayer(**{**row, "measured": _numbers(row["measured"])}) for row in data["layers"])
        return cls(data["target"], data["precision"], layers, data["activations"], tuple(data["repairs"]))


def _format(node: ir.Node, plan: Plan, weight: WeightChoice | None) -> tuple[str, str, str]:
    """A layer's format, how its weight is scaled, and the quantized tensor that it reads."""
    name = str(node.name)
    if name in plan.embeddings:
        return "int8-weights", "per row", ""
    if weight is None:
        return FLOAT, "", ""
    first = node.inputs[0]
    tensor = str(first.name) if first is not None else ""
    is_alone = node.op_type in _WEIGHTS_ALONE or weight.format in (INT4, NVFP4)
    read = None if is_alone else plan.activations.get(tensor)
    if read is None or (read.readers is not None and name not in read.readers):
        return _ALONE.get(weight.format.name, "int8-weights"), weight.granularity, ""
    return ("fp8" if weight.format == FP8 else "int8"), weight.granularity, tensor


def _row(layer: PlannedLayer) -> dict[str, Any]:
    row = {k: v for k, v in vars(layer).items() if v or k == "format"}
    if layer.measured:
        row["measured"] = {k: v if math.isfinite(v) else _name_of(v) for k, v in layer.measured.items()}
    return row


def _name_of(value: float) -> str:
    """A number that JSON lacks."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _short(scale: float) -> float:
    """The number with the fewest digits that is the same float32, which is what the graph gets."""
    return float(str(np.float32(scale)))


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items()}  # "Infinity" is a string in the file
