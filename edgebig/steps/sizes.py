"""How large a graph is on a device: what its memory and build time are estimated from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from edgebig.errors import EdgebigError
from edgebig.graph import Graph
from edgebig.graph.passes import SetShapes
from edgebig.graph.shapes import compute_shapes, infer_shapes
from edgebig.graph.values import static_shape

_ROUNDS = 4
"""In which shapes that follow from others are computed; two are enough for the decoders that Optimum exports."""


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
    peak, rounds = _peak(fixed.model.graph), 0
    while peak is None and rounds < _ROUNDS and compute_shapes(fixed):
        peak, rounds = _peak(fixed.model.graph), rounds + 1
    main = fixed.model.graph
    outside = [_bytes(value) for value in (*main.inputs, *main.outputs)]
    return None if peak is None else Values(peak, sum(size or 0 for size in outside))


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
    if shape is None or value.dtype in (None, ir.DataType.STRING, ir.DataType.UNDEFINED):
        return None
    count = 1
    for size in shape:
        count *= size
    return -(-count * value.dtype.bitwidth // 8)
