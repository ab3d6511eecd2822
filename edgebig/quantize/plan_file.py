"""A plan as a file: what each layer computes with, why, and what was measured. People read it and edit it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgebig.calibrate.ranges import Range, Ranges
from edgebig.errors import RecipeError
from edgebig.graph import Graph
from edgebig.quantize.assignment import FLOAT, LAYER_FORMATS
from edgebig.quantize.formats import FP8, INT4, INT8, UINT8
from edgebig.quantize.plan import Plan

VERSION = 1

_LAYERS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Attention"}
_WEIGHT_ONLY = {INT4.name: "int4", INT8.name: "int8-weights"}
_FORMATS = {f.name: f for f in (UINT8, INT8, FP8)}


@dataclass(frozen=True)
class PlannedLayer:
    """One line of the plan.

    Attributes:
        node: the layer's name.
        op: its operator.
        format: one of ``LAYER_FORMATS``.
        weight: how its weight is scaled, for people; empty for a float one.
        reason: why it has this format.
        measured: figures of the search: ``drop_alone``, ``seconds_saved``.
    """

    node: str
    op: str
    format: str
    weight: str = ""
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
        """Why each has it, where the file says."""
        return {layer.node: layer.reason for layer in self.layers if layer.reason}

    def ranges(self) -> Ranges:
        """The ranges that give the activations' scales and zero points again."""
        found = {}
        for name, row in self.activations.items():
            fmt, scale, zero = _FORMATS[row["format"]], float(row["scale"]), int(row["zero_point"])
            found[name] = Range((fmt.low - zero) * scale, (fmt.high - zero) * scale)
        return Ranges(found, 0, "plan", "the plan")

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "edgebig_plan": VERSION,
            "target": self.target,
            "precision": self.precision,
            "repairs": list(self.repairs),
            "layers": [{k: v for k, v in vars(layer).items() if v or k == "format"} for layer in self.layers],
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
        reasons, measured, layers = reasons or {}, measured or {}, []
        for node in graph.model.graph:
            name = str(node.name)
            if node.op_type not in _LAYERS and name not in {*plan.embeddings, *weights}:
                continue
            fmt, how = _format(node, plan)
            default = "the rules of the target take it" if fmt != FLOAT else "the rules of the target leave it"
            reason = plan.skipped.get(name) if fmt == FLOAT else reasons.get(name)
            layers.append(PlannedLayer(name, node.op_type, fmt, how, reason or default, measured.get(name, {})))
        activations = {
            name: {"format": a.format.name, "scale": a.scale, "zero_point": a.zero_point}
            for name, a in plan.activations.items()
        }
        return cls(target, precision, tuple(layers), activations, repairs)

    @classmethod
    def load(cls, path: str | Path) -> PlanFile:
        """Reads a plan.

        Raises:
            RecipeError: no such file, or it is not a plan; the field is named.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise RecipeError(f"cannot read the plan {path}: {error.strerror}") from error
        except ValueError as error:
            raise RecipeError(f"the plan {path} is not JSON: {error}") from error
        if not isinstance(data, dict) or data.get("edgebig_plan") != VERSION:
            raise RecipeError(
                f'{path} is not a plan of version {VERSION} ("edgebig_plan"): '
                "take a bundle's evidence/PART.plan.json, or 'edgebig inspect BUNDLE --plan --json'"
            )
        layers = tuple(_layer(path, i, row) for i, row in enumerate(_list(path, data, "layers")))
        activations = data.get("activations", {})
        if not isinstance(activations, dict):
            raise RecipeError(f"the plan {path}: activations must be a mapping, found {type(activations).__name__}")
        for name, row in activations.items():
            _check_activation(path, name, row)
        repairs = tuple(str(line) for line in _list(path, data, "repairs"))
        return cls(str(data.get("target", "")), str(data.get("precision", "")), layers, activations, repairs)


def _format(node: ir.Node, plan: Plan) -> tuple[str, str]:
    """A layer's format, and how its weight is scaled."""
    name = str(node.name)
    if name in plan.embeddings:
        return "int8-weights", "per row"
    weight = next((w for w in plan.weights if w.node == name), None)
    if weight is None:
        return FLOAT, ""
    value = node.inputs[0]
    if value is not None and value.name in plan.activations:
        return ("fp8" if weight.format is FP8 else "int8"), weight.granularity
    return _WEIGHT_ONLY[weight.format.name], weight.granularity


def _layer(path: str | Path, index: int, row: Any) -> PlannedLayer:
    where = f"the plan {path}: layers[{index}]"
    if not isinstance(row, dict) or not isinstance(row.get("node"), str):
        raise RecipeError(f"{where} must be a mapping with the name of a node")
    if row.get("format") not in LAYER_FORMATS:
        raise RecipeError(
            f"{where} ({row['node']}): format must be one of {', '.join(LAYER_FORMATS)}, found {row.get('format')!r}"
        )
    unknown = set(row) - {"node", "op", "format", "weight", "reason", "measured"}
    if unknown:
        raise RecipeError(f"{where} ({row['node']}): unknown field {sorted(unknown)[0]!r}")
    return PlannedLayer(**{"op": "", **row})


def _check_activation(path: str | Path, name: str, row: Any) -> None:
    where = f"the plan {path}: activations[{name!r}]"
    if not isinstance(row, dict) or row.get("format") not in _FORMATS:
        raise RecipeError(f"{where}: format must be one of {', '.join(_FORMATS)}")
    scale, zero = row.get("scale"), row.get("zero_point")
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not (math.isfinite(scale) and scale > 0):
        raise RecipeError(f"{where}: scale must be a number above 0, found {scale!r}")
    fmt = _FORMATS[row["format"]]
    if not isinstance(zero, int) or (zero != 0 if fmt.symmetric else not fmt.low <= zero <= fmt.high):
        allowed = "0" if fmt.symmetric else f"a whole number from {fmt.low} to {fmt.high}"
        raise RecipeError(f"{where}: zero_point must be {allowed} in {fmt.name}, found {zero!r}")


def _list(path: str | Path, data: Mapping[str, Any], name: str) -> list[Any]:
    found = data.get(name, [])
    if not isinstance(found, list):
        raise RecipeError(f"the plan {path}: {name} must be a list, found {type(found).__name__}")
    return found
