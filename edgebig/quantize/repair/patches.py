"""What a layer reads, as rows: for convolutions, the patches of im2col."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph.values import constant

Array = np.ndarray[Any, Any]

ROWS_OF_AN_ITEM = 1024
"""Rows taken of one item of a batch; of more, always the same ones, drawn evenly."""

PLACES_OF_AN_ITEM = 256
"""The same of a convolution's places, whose patches overlap and are alike: with 1024 of them SqueezeNet's weights were
rounded no better, at four times the cost."""


def geometry(node: ir.Node) -> tuple[Any, ...]:
    """What decides, besides the input, which rows a layer reads: layers with the same share their rows."""
    if node.op_type != "Conv":
        return (node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1,)
    names = ("strides", "dilations", "pads")
    lists = tuple(tuple(node.attributes.get_ints(name, ())) for name in names)
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    return (*lists, auto_pad, node.attributes.get_int("group", 1), _kernel(node))


def rows_of(node: ir.Node, value: Array) -> Iterator[Array]:
    """The rows that a layer reads in one run, item by item of the batch: float32 ``[groups, rows, columns]``.

    Which rows are taken of an item does not depend on what else is in its batch.

    Args:
        node: MatMul, Gemm or Conv.
        value: its first input.
    """
    value = np.asarray(value, np.float32)
    if node.op_type != "Conv":
        if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1:
            value = value.T
        if value.ndim <= 2:
            yield value.reshape(1, -1, value.shape[-1])
            return
        for item in value:
            rows = item.reshape(-1, item.shape[-1])
            yield rows[_taken(len(rows))][None]
        return
    for item in value:
        yield _patches(node, item)


def _patches(node: ir.Node, item: Array) -> Array:
    kernel = _kernel(node)
    axes = len(kernel)
    strides = node.attributes.get_ints("strides", [1] * axes)
    dilations = node.attributes.get_ints("dilations", [1] * axes)
    pads = _pads(node, item.shape[1:], kernel, strides, dilations)
    padded = np.pad(item, [(0, 0), *pads])
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    out = [(size - e) // s + 1 for size, e, s in zip(padded.shape[1:], extents, strides, strict=True)]
    places = np.unravel_index(_taken(math.prod(out), PLACES_OF_AN_ITEM), out)
    offsets = np.unravel_index(np.arange(math.prod(kernel)), kernel)
    index: Any = tuple(
        p[None, :] * s + o[:, None] * d for p, o, s, d in zip(places, offsets, strides, dilations, strict=True)
    )
    found = padded[(slice(None), *index)]
    group = node.attributes.get_int("group", 1)
    # channels x kernel x places, in the order of the weight's axes
    return np.ascontiguousarray(found.reshape(group, -1, found.shape[-1]).transpose(0, 2, 1))


def _taken(count: int, most: int = ROWS_OF_AN_ITEM) -> Array:
    if count <= most:
        return np.arange(count)
    # not every n-th: that could meet the same column of a picture each time
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def _kernel(node: ir.Node) -> tuple[int, ...]:
    tensor = constant(node.inputs[1])
    assert tensor is not None
    return tuple(int(size) for size in tensor.shape.numpy()[2:])


def _pads(node: ir.Node, sizes: Any, kernel: Any, strides: Any, dilations: Any) -> list[tuple[int, int]]:
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    if auto_pad in {"NOTSET", ""}:
        pads = node.attributes.get_ints("pads", [0] * (2 * len(kernel)))
        return list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))
    found = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0) if auto_pad != "VALID" else 0
        small, large = total // 2, total - total // 2
        found.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
    return found
