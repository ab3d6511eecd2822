"""How large a graph is on a device: what its memory and build time are estimated from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from edgebig.errors import EdgebigError
from edgebig.graph import Graph
from edgebig.graph.passes import SetShapes
from edgebig.graph.shapes import infer_shapes
from edgebig.graph.values import static_shape


@dataclass(frozen=True)
class Values:
    """Bytes of what a graph computes with, weights left out.

    Attributes:
        peak: the most that lives at once when the nodes run in their order: a tensor lives from the node that makes it
            to the last that reads it. An engine fuses nodes and needs less, or picks kernels that need more.
        held: inputs and outputs, a cache's among them, which the caller holds whatever the engine does.
    """

    peak: int
    held: int


def sizes_of(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """``weight_bytes``, ``nodes``, and ``activation_bytes`` (:attr:`Values.peak`) where every shape follows.

    Args:
        graph: in the precision that a device builds.
        shapes: of the inputs with dynamic axes, the largest.
    """
    found = {"weight_bytes": graph.weight_bytes, "nodes": len(graph.nodes())}
    values = values_of(graph, shapes)
    return found if values is None else {**found, "activation_bytes": values.peak}


@dataclass
class Sizer:
    """:func:`values_of` one graph, which does not change meanwhile: each shape is counted once."""

    graph: Graph
    _known: dict[tuple[tuple[str, tuple[int, ...]], ...], Values | None] = field(default_factory=dict)

    def values(self, shapes: Mapping[str, tuple[int, ...]]) -> Values | None:
        """Bytes of the values at these shapes of the inputs; ``None`` where a shape depends on data."""
        key = tuple(sorted(shapes.items()))
        if key not in self._known:
            self._known[key] = values_of(self.graph, shapes)
        return self._known[key]

    def peak_at_most(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """The least peak that is known of shapes that are nowhere smaller; ``None`` where none is."""
        peaks = [
            values.peak for known, values in self._known.items() if values is not None and _covers(dict(known), shapes)
        ]
        return min(peaks, default=None)


def _covers(large: Mapping[str, tuple[int, ...]], small: Mapping[str, tuple[int, ...]]) -> bool:
    return large.keys() == small.keys() and all(
        len(large[name]) == len(shape) and all(a >= b for a, b in zip(large[name], shape, strict=True))
        for name, shape in small.items()
    )


def values_of(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Values | None:
    """Bytes of the values at these shapes of the inputs; ``None`` where a shape depends on data."""
    fixed = graph.clone()
    try:
        if not SetShapes(shapes)(fixed).changed:
            infer_shapes(fixed)
    except EdgebigError:
        return None
    main = fixed.model.graph
    peak = _peak(main)
    if peak is None:  # inference does not look through a Slice or an Expand, and stops where a shape goes through one
        _compute_shapes(fixed)
        peak = _peak(main)
    outside = [_bytes(value) for value in (*main.inputs, *main.outputs)]
    return None if peak is None else Values(peak, sum(size or 0 for size in outside))


def _compute_shapes(fixed: Graph) -> None:
    """Computes what follows from fixed shapes, with onnxscript's constant folding; what it refuses stays unknown."""
    from onnxscript.optimizer import fold_constants  # onnxscript takes a third of a second

    with contextlib.suppress(Exception):  # it lets many kinds through
        fold_constants(fixed.model, onnx_shape_inference=True)


def _peak(main: ir.Graph) -> int | None:
    nodes = list(main)
    outputs = set(main.outputs)
    last: dict[ir.Value, int] = dict.fromkeys(outputs, len(nodes))
    for index, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None and value not in outputs:
                last[value] = index
    sizes = {value: _bytes(value) for value in main.inputs}
    now = peak = sum(size or 0 for size in sizes.values())
    ends: dict[int, list[ir.Value]] = {}
    for value in main.inputs:
        if value in last:
            ends.setdefault(last[value], []).append(value)
    for index, node in enumerate(nodes):
        for value in node.outputs:
            if not value.name:
                continue
            size = _bytes(value)
            if size is None:
                return None
            sizes[value] = size
            now += size
            ends.setdefault(last.get(value, index), []).append(value)
        peak = max(peak, now)
        now -= sum(sizes[value] or 0 for value in ends.get(index, ()))
    return peak


def _bytes(value: ir.Value) -> int | None:
    shape = static_shape(value.shape)
    if shape is None or value.dtype is None:
        return None
    count = 1
    for size in shape:
        count *= size
    return -(-count * value.dtype.bitwidth // 8)
