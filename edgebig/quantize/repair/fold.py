"""Folds a factor for each channel of a value into the constants that the value is computed from.

What is followed backwards, since it lets a positive factor of each channel through: the gain and offset of a
normalization, an addition or product with a constant vector, a product with a scalar, one side of a product of
two computed values, Relu, attention from the values' projection to the output's, and at the end a matrix
product's output channels.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant, consumers, new_initializer

Array = np.ndarray[Any, Any]

_NORMS = {"LayerNormalization": (1, 2), "RMSNormalization": (1,), "SimplifiedLayerNormalization": (1,)}
_SWAP = [0, 2, 1, 3]
"""The permutation that exchanges heads and positions."""


@dataclass(frozen=True)
class Edit:
    """A constant whose channels are to be multiplied.

    Attributes:
        node: that reads it.
        index: of its input.
        axis: of the channels; the last where it is -1.
    """

    node: ir.Node
    index: int
    axis: int = -1


@dataclass(frozen=True)
class Known:
    """What a search goes by.

    Attributes:
        channels: length of the value's last axis.
        shapes: of the graph's values in one run.
        fixed: names of values that must stay as they are, since their scales are made already.
    """

    channels: int
    shapes: Mapping[str, tuple[int, ...]]
    fixed: Container[str] = ()


def edits(value: ir.Value, readers: set[int], known: Known) -> list[Edit] | str:
    """Where a factor for each channel (last axis) of a value can go, or why it can go nowhere.

    Args:
        value: computed in the main graph.
        readers: ``id`` of the nodes that will undo the factor: no other may read the value.
        known: about the graph.
    """
    name = str(value.name)
    if name in known.fixed:
        return f"{name} is quantized itself"
    if value.is_graph_output():
        return f"{name} is an output of the model"
    if any(id(node) not in readers for node in value_readers(value)):
        return f"{name} is read elsewhere too"
    node = value.producer()
    if node is None:
        return f"{name} is an input of the model"
    if node.domain not in ("", "com.microsoft"):
        return f"{name} comes from {node.op_type}"
    if node.op_type in _NORMS:
        return _norm(node, known)
    if node.op_type in {"MatMul", "Gemm"}:
        return _product(node, known)
    if node.op_type == "Relu":
        return _before(node, 0, known)
    if node.op_type in {"Add", "Sub", "Mul", "Div"}:
        return _elementwise(node, known)
    if node.op_type == "Reshape":
        return _attention(node, known)
    return f"{name} comes from {node.op_type}"


def value_readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read what a value holds, each once; Shape does not."""
    return [node for node in consumers(value) if node.op_type != "Shape"]


def apply(graph: Graph, found: list[Edit], factor: Array) -> None:
    """Multiplies the constants; one that others read too is copied.

    Args:
        graph: holds the nodes.
        found: from :func:`edits`.
        factor: positive, ``[channels]``.
    """
    for edit in found:
        tensor = constant(edit.node.inputs[edit.index])
        assert tensor is not None  # edits() found it
        array = np.asarray(tensor.numpy(), np.float64)
        shape = [1] * max(array.ndim, 1)
        shape[edit.axis] = -1
        replace(graph, edit.node, edit.index, array * factor.astype(np.float64).reshape(shape))


def rename_between(edited: Iterable[ir.Node], value: ir.Value, suffix: str) -> None:
    """Gives the values from the edited nodes to ``value`` other names, since they are other values now.

    Whoever compares two graphs' tensors by name would else take them for what they were.
    """
    forward: set[int] = set()
    waiting = list(edited)
    while waiting:
        node = waiting.pop()
        if id(node) not in forward:
            forward.add(id(node))
            waiting += [reader for out in node.outputs if out is not value for reader in consumers(out)]
    back: set[int] = set()
    waiting = [node for node in [value.producer()] if node is not None]
    while waiting:
        node = waiting.pop()
        if id(node) not in back and id(node) in forward:
            back.add(id(node))
            for out in node.outputs:
                out.name = f"{out.name}/{suffix}"
            producers = [v.producer() for v in node.inputs if v is not None]
            waiting += [p for p in producers if p is not None]


def replace(graph: Graph, node: ir.Node, index: int, array: Array) -> None:
    """Gives a node a new float32 constant."""
    old = node.inputs[index]
    # a name that says where it came from
    name = f"{old.name if old is not None else node.name}/folded"
    value = new_initializer(graph, name, np.ascontiguousarray(array, np.float32))
    node.replace_input_with(index, value)
    if old is not None and not old.uses() and not old.is_graph_output():
        graph.model.graph.initializers.pop(str(old.name), None)


def _before(node: ir.Node, index: int, known: Known) -> list[Edit] | str:
    value = node.inputs[index]
    return edits(value, {id(node)}, known) if value is not None else f"{node.name} reads nothing"


def _norm(node: ir.Node, known: Known) -> list[Edit] | str:
    axis = node.attributes.get_int("axis", -1)
    first = node.inputs[0]
    rank = len(known.shapes.get(str(first.name), ())) if first is not None else 0
    if axis not in (-1, rank - 1):
        return f"{node.name} normalizes several axes"
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return f"{node.name} hands out its mean too"
    wanted = [i for i in _NORMS[node.op_type] if i < len(node.inputs) and node.inputs[i] is not None]
    if any(not _is_vector(node.inputs[i], known.channels) for i in wanted):
        return f"the gain of {node.name} is computed"
    return [Edit(node, i) for i in wanted]


def _product(node: ir.Node, known: Known) -> list[Edit] | str:
    tensor = constant(node.inputs[1])
    if tensor is None or len(tensor.shape) != 2 or tensor.dtype != ir.DataType.FLOAT:
        return f"{node.name} multiplies two computed values"
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    found = [Edit(node, 1, 0 if transposed else -1)]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        if not _is_vector(node.inputs[2], known.channels):
            return f"the bias of {node.name} is not a vector of constants"
        found.append(Edit(node, 2))
    return found


def _elementwise(node: ir.Node, known: Known) -> list[Edit] | str:
    constants = [constant(v) for v in node.inputs]
    if all(c is None for c in constants):
        if node.op_type != "Mul" or node.inputs[0] is node.inputs[1]:
            return f"{node.name} combines two computed values"
        wide = [
            i
            for i, v in enumerate(node.inputs)
            if v is not None and known.shapes.get(str(v.name), (0,))[-1] == known.channels
        ]
        tried = [_before(node, i, known) for i in reversed(wide)]
        return next((t for t in tried if not isinstance(t, str)), tried[0] if tried else f"{node.name} broadcasts")
    at = next(i for i, c in enumerate(constants) if c is not None)
    if node.op_type in {"Mul", "Div"}:
        if not (node.op_type == "Div" and at == 0) and _is_vector(node.inputs[at], known.channels):
            # a divisor takes the inverse: follow the dividend instead
            return [Edit(node, at)] if node.op_type == "Mul" else _before(node, 0, known)
        tensor = constants[at]
        if tensor is not None and tensor.size == 1 and at == 1:
            return _before(node, 0, known)
        return f"{node.name} has a constant that is no vector of its channels"
    if not _is_vector(node.inputs[at], known.channels):
        return f"{node.name} has a constant that is no vector of its channels"
    inner = _before(node, 1 - at, known)
    return inner if isinstance(inner, str) else [*inner, Edit(node, at)]


def _attention(node: ir.Node, known: Known) -> list[Edit] | str:
    """From the output projection's input through ``P V`` to the values' projection.

    ``[b, s, c] -> Reshape [b, s, h, d] -> Transpose [b, h, s, d] -> P V -> Transpose -> Reshape [b, s, c]``:
    channel ``h d + i`` stays itself, if each key and value has a head of its own.
    """
    declined = f"{node.name} is not the end of an attention whose heads have values of their own"
    back = _producer(node, 0, "Transpose")
    mixed = _producer(back, 0, "MatMul")
    out = _producer(mixed, 1, "Transpose")
    split = _producer(out, 0, "Reshape")
    if back is None or mixed is None or out is None or split is None:
        return declined
    heads = known.shapes.get(str(split.outputs[0].name), ())
    entry = split.inputs[0]
    if (
        list(back.attributes.get_ints("perm", ())) != _SWAP
        or list(out.attributes.get_ints("perm", ())) != _SWAP
        or len(heads) != 4
        or heads[2] * heads[3] != known.channels
        or known.shapes.get(str(back.outputs[0].name), ())[2:] != heads[2:]
        or known.shapes.get(str(node.outputs[0].name), (0,))[-1] != known.channels
        or entry is None
        or known.shapes.get(str(entry.name), (0,))[-1] != known.channels
    ):
        return declined
    return edits(entry, {id(split)}, known)


def _producer(node: ir.Node | None, index: int, op_type: str) -> ir.Node | None:
    """The node that gives an input, if it is of that type and nothing else reads what it gives."""
    value = node.inputs[index] if node is not None else None
    found = value.producer() if value is not None else None
    if value is None or found is None or found.op_type != op_type or value.is_graph_output():
        return None
    return found if len(value_readers(value)) == 1 else None


def _is_vector(value: ir.Value | None, channels: int) -> bool:
    tensor = constant(value)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size != channels:
        return False
    return len(tensor.shape) > 0 and int(tensor.shape.numpy()[-1]) == channels
