"""The stem: the first layers of a network for pictures, which INT8 makes no faster on a CPU, but noisier.

A convolution of a picture's three channels by 3 x 3 sums 27 products, too few for instructions that multiply bytes in
groups, and its result is the largest tensor of the network. In float it rounds neither the picture nor its weights. On
SqueezeNet, one thread of a processor with VNNI, it takes 0.47 ms in float32 and 0.61 ms in INT8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant, consumers
from edgebig.graph.work import Shapes, macs

SHARE = 0.1
"""Of the model's multiply-accumulates, at most, that the stem may be."""

_PRODUCTS = 32
"""That a kernel sums for one value: with more of them INT8 may be faster."""

_ACTIVATIONS = {"Relu", "Clip"}


def stem_layers(graph: Graph, shapes: Shapes) -> dict[str, str]:
    """Names of the layers that should stay in float on a CPU, with the reason.

    These are convolutions of the graph's inputs whose kernels are small. Where MaxPool alone reads such a result, what
    reads the pooled values stays too: ONNX Runtime would else round before it pools, and its pooling of integers
    that no integer convolution has made is many times slower than that of floats.

    Args:
        graph: a float32 graph whose nodes have unique names.
        shapes: of its tensors, as :func:`edgebig.graph.work.observed_shapes` gives them.
    """
    inputs = {id(v) for v in graph.model.graph.inputs}
    first = [n for n in graph.model.graph if _is_small(n) and id(n.inputs[0]) in inputs]
    found = {str(n.name): "a convolution of few channels: INT8 would make it no faster" for n in first}
    for node in first:
        for reader in _pooled(node):
            found.setdefault(str(reader.name), f"it reads what {node.name} gives pooled: in INT8 the pooling is slower")
    work = macs(graph, shapes)
    share = sum(work.get(name, 0) for name in found) / max(sum(work.values()), 1)
    return found if share <= SHARE else {}


def _is_small(node: ir.Node) -> bool:
    weight = constant(node.inputs[1]) if node.op_type == "Conv" and not node.domain else None
    return weight is not None and math.prod(int(d) for d in weight.shape.numpy()[1:]) <= _PRODUCTS


def _pooled(node: ir.Node) -> Sequence[ir.Node]:
    """The layers that read a convolution's result by way of MaxPool."""
    readers = consumers(node.outputs[0])
    if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS:
        readers = consumers(readers[0].outputs[0])
    pools = [r for r in readers if r.op_type == "MaxPool"]
    return [reader for pool in pools for reader in consumers(pool.outputs[0]) if reader.op_type == "Conv"]


__all__ = ["SHARE", "stem_layers"]
