"""Branches of a graph (``If``) and what decides them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from edgebig.graph.graph import Graph


def decided_by(graph: Graph) -> str:
    """What the conditions of a graph's ``If`` nodes depend on, and the options that settle it; empty without any.

    Returns:
        For example ``the value of sr (--freeze sr=VALUE) and the shape of input (--shapes)``.
    """
    conditions = [node.inputs[0] for node in graph.nodes() if node.op_type == "If" and not node.domain]
    if not conditions:
        return ""
    shapes: set[ir.Value] = set()
    values = _inputs_behind(graph, conditions, shapes)
    sized = _inputs_behind(graph, shapes, set()) - values
    parts = []
    if values:
        names = _names(graph, values)
        parts.append(f"the value of {', '.join(names)} ({' '.join(f'--freeze {name}=VALUE' for name in names)})")
    if sized:
        parts.append(f"the shape of {', '.join(_names(graph, sized))} (--shapes)")
    return " and ".join(parts) or "what the graph computes"


def _inputs_behind(graph: Graph, values: Iterable[ir.Value | None], shapes: set[ir.Value]) -> set[ir.Value]:
    """The graph's inputs that values are computed from; of what only the shape counts goes to ``shapes``."""
    main = set(graph.model.graph.inputs)
    found: set[ir.Value] = set()
    seen: set[ir.Value] = set()
    left = list(values)
    while left:
        value = left.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        if value in main:
            found.add(value)
        producer = value.producer()
        if producer is None:
            continue
        if producer.op_type in {"Shape", "Size"}:
            shapes.update(v for v in producer.inputs if v is not None)
        else:
            left += producer.inputs
    return found


def _names(graph: Graph, values: set[ir.Value]) -> list[str]:
    return [str(value.name) for value in graph.model.graph.inputs if value in values]
