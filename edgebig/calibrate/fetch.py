"""Which values a run hands out at once, so that they fit a budget of memory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgebig.calibrate.data.samples import Sample
from edgebig.graph import Graph

_FLOAT = 4


def bytes_on(graph: Graph, names: Sequence[str], sample: Sample) -> dict[str, int]:
    """Bytes that float32 tensors of the main graph take on a sample; 0 for those that are inputs.

    An axis that an input names has the sample's size; of other dynamic axes, the first is taken to be
    as long as the largest batch and the others as the sample's longest axis.
    """
    main = graph.model.graph
    values = {str(v.name): v for node in main for v in node.outputs}
    known: dict[str, int] = {
        str(dim.value): size
        for value in main.inputs
        if value.name in sample and value.shape is not None
        for dim, size in zip(value.shape, sample[str(value.name)].shape, strict=False)
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None
    }
    batch = max((array.shape[0] for array in sample.values() if array.ndim), default=1)
    longest = max((size for array in sample.values() for size in array.shape), default=1)

    def size(dim: int | ir.SymbolicDim, axis: int) -> int:
        if isinstance(dim, int):
            return dim
        return known.get(str(dim.value), batch if axis == 0 else longest)

    def total(name: str) -> int:
        shape = values[name].shape if name in values else None
        sizes = [] if shape is None else [size(dim, axis) for axis, dim in enumerate(shape)]
        return _FLOAT * math.prod(sizes) if sizes else 0

    return {name: total(name) for name in names}


def too_large(sizes: Mapping[str, int], memory: int) -> set[str]:
    """The tensors that no longer fit when all are handed out by one run, in their order."""
    found, used = set(), 0
    for name, size in sizes.items():
        if used + size > memory:
            found.add(name)
        else:
            used += size
    return found


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
