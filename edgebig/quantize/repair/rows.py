"""Rows: what a matrix product reads on the calibration samples, thinned to a fixed number of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgebig.graph import Executor, Graph

Array = np.ndarray[Any, Any]
Sample = Mapping[str, Array]


@dataclass
class Rows:
    """One tensor's rows along its last axis.

    Attributes:
        low, high: of each channel over every second sample, float32 [channels].
        kept: rows of the other samples, float32 [rows, channels]: what was measured on the first half is
            tried on them.
        largest: magnitude of each channel over all samples, float32 [channels].
    """

    low: Array
    high: Array
    kept: Array
    largest: Array


def gather_rows(graph: Graph, tensors: Sequence[str], samples: Iterable[Sample], limit: int) -> dict[str, Rows]:
    """Runs the samples once.

    Args:
        graph: a float32 graph.
        tensors: names of float tensors, each of rank 2 or more.
        samples: two at least.
        limit: rows kept of a tensor. Every row is kept until there are twice as many, then every second one,
            and so on: what is kept depends on the data and their order alone.
    """
    copy = graph.clone()
    main = copy.model.graph
    values = {str(v.name): v for v in [*main.inputs, *(o for node in main for o in node.outputs)]}
    inputs = {str(v.name) for v in main.inputs}
    fetched = [name for name in tensors if name not in inputs]
    main.outputs.clear()
    main.outputs.extend(values[name] for name in fetched)
    thinned = {name: _Thinned(limit) for name in tensors}
    bounds: dict[str, tuple[Any, Any]] = {name: (np.float32(np.inf), np.float32(-np.inf)) for name in tensors}
    largest: dict[str, Any] = {name: np.float32(0) for name in tensors}
    with Executor(copy, "all") as executor:
        for index, sample in enumerate(samples):
            found = executor.run(sample, fetched) if fetched else {}
            for name in tensors:
                array = found[name] if name in found else sample[name]
                rows = array.reshape(-1, array.shape[-1])
                if not rows.size:
                    continue
                low, high = rows.min(axis=0), rows.max(axis=0)
                largest[name] = np.maximum(largest[name], np.maximum(-low, high))
                if index % 2 == 0:
                    bounds[name] = np.minimum(bounds[name][0], low), np.maximum(bounds[name][1], high)
                else:
                    thinned[name].add(rows)
    kept = {name: thinned[name].rows() for name in tensors}
    return {n: Rows(*bounds[n], kept[n], largest[n]) for n in tensors if kept[n].size and np.ndim(bounds[n][0])}


class _Thinned:
    """Every n-th row of a stream, n doubling whenever twice the limit is reached."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._every = 1
        self._seen = 0
        self._parts: list[Array] = []
        self._count = 0

    def add(self, rows: Array) -> None:
        first = -self._seen % self._every
        part = rows[first :: self._every].copy()
        self._seen += len(rows)
        self._parts.append(part)
        self._count += len(part)
        while self._count > 2 * self._limit:
            self._parts = [np.concatenate(self._parts)[::2]]
            self._count = len(self._parts[0])
            self._every *= 2

    def rows(self) -> Array:
        return np.concatenate(self._parts) if self._parts else np.empty((0, 0), np.float32)
