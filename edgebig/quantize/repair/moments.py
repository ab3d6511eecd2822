"""Second moments of what layers read on the calibration samples, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.errors import CalibrationError
from edgebig.graph import Executor, Graph
from edgebig.graph.groups import in_groups
from edgebig.graph.work import observed_shapes
from edgebig.quantize.repair.matrices import matrix_shape, refusal
from edgebig.quantize.repair.patches import geometry, rows_of

Array = np.ndarray[Any, Any]
Samples = Iterable[Mapping[str, Array]]

MEMORY = 1 << 30
"""Bytes of moments and activations that are alive at once, unless those of a single layer are more."""


@dataclass(frozen=True)
class Moments:
    """What the rows x that a layer reads are like.

    Attributes:
        second: sum of x xᵀ over the rows, float64 ``[groups, K, K]``. Products are in float32 and summed in
            float64: an element is exact to about 1e-5 of ``sqrt(H_ii H_jj)``.
        largest: of each input channel, the largest magnitude, float32 ``[groups, K]``.
        mean: of each input channel, the mean magnitude, float64 ``[groups, K]``.
        rows: their number.
    """

    second: Array
    largest: Array
    mean: Array
    rows: int


def layer_moments(
    graph: Graph, layers: Sequence[str], samples: Samples, memory: int = MEMORY
) -> Iterator[tuple[tuple[str, ...], Moments]]:
    """The moments of what layers read; layers that read the same rows come together, each layer once.

    The samples are run once for each group of layers whose moments fit in ``memory``. Of an item of a batch at
    most 1024 rows (tokens) or 256 places of a picture count, always the same ones. How samples are put into
    batches changes the result by float rounding only.

    Args:
        graph: a float32 graph whose nodes have unique names.
        layers: names of nodes for which :func:`~edgebig.quantize.repair.matrices.refusal` finds no reason.
        samples: inputs of the graph; iterated once for each group.
        memory: bytes of moments and fetched activations, unless a single layer needs more.

    Yields:
        Names of layers, and their moments.

    Raises:
        CalibrationError: no samples, or a value is not finite.
        GraphError: a layer is not such a node.
    """
    nodes = {str(node.name): node for node in graph.model.graph}
    shared: dict[tuple[Any, ...], list[ir.Node]] = {}
    for name in layers:
        node = nodes[name]
        why = refusal(node)
        if why is not None or node.inputs[0] is None:
            raise CalibrationError(f"{name} has no moments: {why}: leave it out")
        rows = matrix_shape(node)[1]
        shared.setdefault((str(node.inputs[0].name), rows, *geometry(node)), []).append(node)
    if not shared:
        return
    first = next(iter(samples), None)
    if first is None:
        raise CalibrationError("no samples to take moments of: give at least one with --calib")
    shapes = observed_shapes(graph, first)
    keys = {str(index): key for index, key in enumerate(shared)}
    sizes = {index: _bytes(shared[key][0], shapes[key[0]]) for index, key in keys.items()}
    for group in in_groups(sizes, memory):
        sums = {keys[index]: _Sums(shared[keys[index]][0]) for index in group}
        _run(graph, sums, samples)
        for key in list(sums):
            yield tuple(str(node.name) for node in shared[key]), sums.pop(key).moments()


def _bytes(node: ir.Node, shape: tuple[int, ...]) -> int:
    groups, rows, _ = matrix_shape(node)
    return 8 * groups * rows * rows + 4 * int(np.prod(shape))


def _run(graph: Graph, sums: Mapping[tuple[Any, ...], _Sums], samples: Samples) -> None:
    copy = graph.clone()
    main = copy.model.graph
    values = {str(v.name): v for node in main for v in node.outputs}
    fetched = list(dict.fromkeys(key[0] for key in sums if key[0] in values))
    main.outputs.clear()
    main.outputs.extend(values[name] for name in fetched)
    executor = Executor(copy, "all") if fetched else None
    try:
        for sample in samples:
            found = executor.run(sample, fetched) if executor is not None else {}
            for key, kept in sums.items():
                kept.add(found[key[0]] if key[0] in found else sample[key[0]])
    finally:
        if executor is not None:
            executor.close()


class _Sums:
    """Moments while they grow."""

    def __init__(self, node: ir.Node) -> None:
        groups, rows, _ = matrix_shape(node)
        self._node = node
        self._second = np.zeros((groups, rows, rows))
        self._largest = np.zeros((groups, rows), np.float32)
        self._total = np.zeros((groups, rows))
        self._count = 0

    def add(self, value: Array) -> None:
        for rows in rows_of(self._node, value):
            if not np.isfinite(rows).all():
                raise CalibrationError(f"{self._node.name} reads values that are not finite: leave it in float")
            self._second += rows.transpose(0, 2, 1) @ rows
            magnitude = np.abs(rows)
            np.maximum(self._largest, magnitude.max(axis=1, initial=0.0), out=self._largest)
            self._total += magnitude.sum(axis=1, dtype=np.float64)
            self._count += rows.shape[1]

    def moments(self) -> Moments:
        return Moments(self._second, self._largest, self._total / max(self._count, 1), self._count)
