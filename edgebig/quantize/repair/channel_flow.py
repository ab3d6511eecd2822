"""Which channels of a network's layers can be scaled, and which must be scaled together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant, static_shape

Array = np.ndarray[Any, Any]

_HOMOGENEOUS = {"Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}
"""``f(s x) = s f(x)`` for every channel and every positive ``s``."""


@dataclass(frozen=True)
class Side:
    """A layer, and the channels of what it gives or of what it reads.

    Attributes:
        node: Conv or Gemm with a constant weight.
        channels: the index of each channel's class, int64; channels of one class are scaled by one factor.
    """

    node: ir.Node
    channels: Array


@dataclass(frozen=True)
class ChannelFlow:
    """The channels that flow between layers through operators that let a positive factor through.

    Attributes:
        producers: layers by what they give.
        consumers: layers by what they read.
        values: the values whose channels are followed, with the classes.
        group: of each class; channels of one tensor are of one group, int64.
        free: of each class, whether it can be scaled: if all of its group are given by layers and read by layers.
    """

    producers: tuple[Side, ...]
    consumers: tuple[Side, ...]
    values: tuple[tuple[ir.Value, Array], ...]
    group: Array
    free: Array


def channel_flow(graph: Graph) -> ChannelFlow:
    """Follows channels through Relu, LeakyRelu, PRelu, pooling, Concat along channels and additions of two values.

    Args:
        graph: with inferred shapes.
    """
    walk = _Walk()
    for value in graph.model.graph.inputs:
        walk.fix(walk.channels_of(value))
    for node in graph.model.graph:
        walk.follow(node)
    for value in graph.model.graph.outputs:
        walk.fix(walk.channels_of(value))
    return walk.result()


def layer_weight(node: ir.Node) -> tuple[int, ...] | None:
    """The shape of the weight of a layer whose channels can be scaled; ``None`` for other nodes."""
    if node.domain or node.op_type not in {"Conv", "Gemm"}:
        return None
    tensors = [constant(v) for v in node.inputs[1:] if v is not None]
    if any(t is None or t.dtype != ir.DataType.FLOAT for t in tensors) or tensors[0] is None:
        return None
    shape = tuple(int(d) for d in tensors[0].shape.numpy())
    if node.op_type == "Gemm":
        get = node.attributes.get_float
        plain = get("alpha", 1.0) == 1.0 and get("beta", 1.0) == 1.0 and not node.attributes.get_int("transA", 0)
        outputs = shape[0] if node.attributes.get_int("transB", 0) else shape[1]
        return shape if plain and all(t is not None and t.size == outputs for t in tensors[1:]) else None
    return shape


def sizes(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """The numbers of channels that a layer reads and gives."""
    if node.op_type == "Gemm":
        return (shape[1], shape[0]) if node.attributes.get_int("transB", 0) else (shape[0], shape[1])
    return shape[1] * node.attributes.get_int("group", 1), shape[0]


class _Sets:
    """Disjoint sets of numbers, each with a mark."""

    def __init__(self) -> None:
        self._parents: list[int] = []

    def new(self, count: int) -> Array:
        first = len(self._parents)
        self._parents += range(first, first + count)
        return np.arange(first, first + count)

    def find(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index

    def join(self, one: int, other: int) -> None:
        self._parents[self.find(one)] = self.find(other)

    def numbered(self) -> Array:
        """The number of each one's set, from 0."""
        roots = [self.find(i) for i in range(len(self._parents))]
        return np.unique(roots, return_inverse=True)[1] if roots else np.empty(0, np.int64)


class _Walk:
    def __init__(self) -> None:
        self._classes = _Sets()
        self._fixed: set[int] = set()
        self._channels: dict[int, tuple[ir.Value, Array]] = {}
        self._producers: list[Side] = []
        self._consumers: list[Side] = []

    def follow(self, node: ir.Node) -> None:
        shape = layer_weight(node)
        read = node.inputs[0] if node.inputs else None
        if shape is not None and read is not None:
            first = self.channels_of(read)
            inputs, outputs = sizes(node, shape)
            if len(first) == inputs:
                self._consumers.append(Side(node, first))
            else:
                self.fix(first)
            given = self._classes.new(outputs)
            self._channels[id(node.outputs[0])] = node.outputs[0], given
            self._producers.append(Side(node, given))
            return
        through = self._through(node)
        if through is not None:
            self._channels[id(node.outputs[0])] = node.outputs[0], through
            return
        if node.op_type != "Shape":
            for value in _all_inputs(node):
                self.fix(self.channels_of(value))

    def _through(self, node: ir.Node) -> Array | None:
        """The channels of what an operator gives, if it lets factors through."""
        read = [v for v in node.inputs if v is not None]
        if node.domain or not read or any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
            return None
        first = self.channels_of(read[0])
        rank = len(read[0].shape) if read[0].shape is not None else 0
        if node.op_type in _HOMOGENEOUS:
            return first if len(first) and all(constant(v) is not None for v in read[1:]) else None
        if node.op_type == "Concat" and rank > 1 and node.attributes.get_int("axis", 0) in (1, 1 - rank):
            parts = [self.channels_of(v) for v in read]
            return np.concatenate(parts) if all(len(p) for p in parts) else None
        if node.op_type == "Add" and all(constant(v) is None for v in read):
            other = self.channels_of(read[1])
            shapes = [static_shape(v.shape) for v in read]
            if len(first) and shapes[0] is not None and shapes[0] == shapes[1]:
                for one, two in zip(first, other, strict=True):
                    self._classes.join(int(one), int(two))
                return first
        return None

    def channels_of(self, value: ir.Value) -> Array:
        """The channels of a value: of one that nothing followed gives, new ones that stay as they are."""
        if constant(value) is not None:
            return np.empty(0, np.int64)
        if id(value) not in self._channels:
            shape = value.shape
            size = shape[1] if shape is not None and len(shape) > 1 else 0
            made = self._classes.new(size if isinstance(size, int) else 0)
            self._channels[id(value)] = value, made
            self.fix(made)
        return self._channels[id(value)][1]

    def fix(self, channels: Array) -> None:
        self._fixed.update(channels.tolist())

    def result(self) -> ChannelFlow:
        number = self._classes.numbered()
        producers = tuple(Side(s.node, number[s.channels]) for s in self._producers)
        consumers = tuple(Side(s.node, number[s.channels]) for s in self._consumers)
        values = tuple((v, number[c]) for v, c in self._channels.values() if len(c))
        count = int(number.max(initial=-1)) + 1
        groups = _Sets()
        groups.new(count)
        for _, channels in values:
            for one, two in pairwise(channels.tolist()):
                groups.join(one, two)
        group = groups.numbered()
        free = np.ones(count, bool)
        free[number[sorted(self._fixed)]] = False
        for sides in (producers, consumers):
            has = np.zeros(count, bool)
            for side in sides:
                has[side.channels] = True
            free &= has
        stuck = np.zeros(count, bool)
        stuck[group[~free]] = True
        return ChannelFlow(producers, consumers, values, group, free & ~stuck[group])


def _all_inputs(node: ir.Node) -> list[ir.Value]:
    """What a node reads, its subgraphs too."""
    found = [v for v in node.inputs if v is not None]
    for attribute in node.attributes.values():
        graphs = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else []
        graphs = list(attribute.value) if attribute.type == ir.AttributeType.GRAPHS else graphs
        for graph in graphs:
            found += [v for inner in ir.traversal.RecursiveGraphIterator(graph) for v in inner.inputs if v is not None]
    return found
