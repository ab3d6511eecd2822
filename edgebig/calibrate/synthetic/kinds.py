"""What an input of a graph takes, as far as the graph tells: pictures, sound, tokens and what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.spec import TensorSpec

Kind = Literal["picture", "sound", "tokens", "mask", "positions", "segments", "cache"]

_RESHAPED = frozenset({"Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten", "Transpose"})
_SCALED = frozenset({"Sub", "Add", "Mul", "Div", "Pad", "Slice", "Split", "Concat", "Clip", "Resize", "Expand"})
_NORMALIZED = frozenset({"BatchNormalization", "InstanceNormalization", "LayerNormalization"})
_CACHE = "past_key_values"


@dataclass(frozen=True)
class Taken:
    """What one input takes.

    Attributes:
        spec: the input.
        kind: ``None`` where the graph does not tell.
        rows: of the table that tokens index, 0 for other kinds.
    """

    spec: TensorSpec
    kind: Kind | None
    rows: int = 0


def kinds_of(graph: Graph, inputs: tuple[TensorSpec, ...]) -> list[Taken]:
    """What each of the inputs takes, by what reads it and by its name."""
    return [_taken(spec, graph.require_input(spec.name)) for spec in inputs]


def _taken(spec: TensorSpec, value: ir.Value) -> Taken:
    if "mask" in spec.name:
        return Taken(spec, "mask")
    if spec.dtype.startswith("float"):
        return Taken(spec, _float_kind(spec, value))
    if not spec.dtype.startswith("int") or not spec.shape:
        return Taken(spec, None)
    if "position" in spec.name:
        return Taken(spec, "positions")
    if "token_type" in spec.name or "segment" in spec.name:
        return Taken(spec, "segments")
    rows = _rows(value)
    return Taken(spec, "tokens" if rows else None, rows)


def _float_kind(spec: TensorSpec, value: ir.Value) -> Kind | None:
    if spec.name.startswith(_CACHE):
        return "cache" if any(isinstance(d, str) and "batch" not in d for d in spec.shape) else None
    kernel = _first_kernel(value)
    if len(spec.shape) == 4 and len(kernel) == 4:
        is_colour = any(not isinstance(d, int) or d in (1, 3) for d in (spec.shape[1], spec.shape[-1]))
        return "picture" if is_colour else None
    return "sound" if len(spec.shape) in (2, 3) and len(kernel) == 3 and kernel[1] == 1 else None


def _first_kernel(value: ir.Value) -> tuple[int, ...]:
    """The shape of the first convolution's weights on the way from an input; empty where there is none."""
    waiting, seen = [value], {id(value)}
    while waiting:
        for node, index in waiting.pop(0).uses():
            if node.op_type == "Conv" and index == 0:
                weight = node.inputs[1]
                return tuple(d for d in (weight.shape if weight and weight.shape else ()) if isinstance(d, int))
            if node.op_type in _RESHAPED | _SCALED | _NORMALIZED:
                for out in node.outputs:
                    if id(out) not in seen:
                        seen.add(id(out))
                        waiting.append(out)
    return ()


def _rows(value: ir.Value) -> int:
    """The rows of the smallest table that a value indexes; 0 where it indexes none."""
    found: list[int] = []
    for node, index in value.uses():
        if node.op_type in _RESHAPED and index == 0:
            found.append(_rows(node.outputs[0]))
        elif node.op_type == "Gather" and index == 1:
            table = constant(node.inputs[0])
            if table is not None:
                found.append(int(table.numpy().shape[node.attributes.get_int("axis", 0)]))
    return min((rows for rows in found if rows), default=0)
