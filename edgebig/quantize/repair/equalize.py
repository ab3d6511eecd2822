"""Cross-layer equalization: moves factors of channels between convolutions and matrix products.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1: where only
operators that let a positive factor of a channel through lie between two layers, ``W2 f(W1 x) =
W2 S f(S^-1 W1 x)``, and ``s_i = sqrt(r1_i r2_i) / r2_i`` makes the ranges of channel i in both weights equal, which is
repeated until nothing changes.

With magnitudes of activations, they take the place of ``r1``, and ``s_i = |x_i|^alpha / r2_i^(1 - alpha)``, as in Xiao
et al. 2023, "SmoothQuant", section 4: weights that have a scale for each output channel suffer little from uneven
channels, while the activations between have one scale for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.errors import CalibrationError
from edgebig.graph import Executor, Graph
from edgebig.graph.values import constant
from edgebig.quantize.repair.channel_flow import ChannelFlow, Side, channel_flow
from edgebig.quantize.repair.fold import replace

Array = np.ndarray[Any, Any]

ALPHA = 0.9
"""Share of the activations' unevenness that moves into the weights."""

_ROUNDS = 50
_SETTLED = 1e-4
"""A round that changes every factor by a smaller share is the last one."""

_LARGEST = 1e3
"""Factors lie between its inverse and it: beyond, a channel that is nearly dead would become a large one."""


def equalize(graph: Graph, magnitudes: Mapping[str, Array] | None = None, alpha: float = ALPHA) -> list[str]:
    """Changes ``graph`` in place; its outputs stay the same up to float rounding.

    Values that become others get other names.

    Args:
        graph: a float32 graph whose nodes have unique names, with inferred shapes.
        magnitudes: of the channels of what layers read, from :func:`channel_magnitudes`; ``None``: the weights'
            ranges alone decide.
        alpha: with magnitudes, from 0 to 1: the exponent of theirs.

    Returns:
        A line for each group of layers that share factors.
    """
    flow = channel_flow(graph)
    if not flow.free.any():
        return []
    factors = _balanced(flow) if magnitudes is None else _migrated(flow, magnitudes, alpha)
    _apply(graph, flow, factors)
    return _lines(flow, factors)


def channel_magnitudes(graph: Graph, samples: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """The largest magnitude of each channel (axis 1) of what layers read, by value, float32 ``[channels]``.

    Args:
        graph: as :func:`equalize` takes it; not changed.
        samples: inputs of the graph, run once; the values of one sample are alive at a time.

    Raises:
        CalibrationError: no samples, or a value is not finite.
    """
    flow = channel_flow(graph)
    names = list(dict.fromkeys(_read(s) for s in flow.consumers if flow.free[s.channels].any()))
    found: dict[str, Array] = {}
    if not names:
        return found
    copy = graph.clone()
    values = {str(v.name): v for node in copy.model.graph for v in node.outputs}
    copy.model.graph.outputs.clear()
    copy.model.graph.outputs.extend(values[name] for name in names)
    with Executor(copy, "all") as executor:
        for sample in samples:
            for name, value in executor.run(sample, names).items():
                largest = np.abs(value).max(axis=(0, *range(2, value.ndim)), initial=0.0)
                if not np.isfinite(largest).all():
                    raise CalibrationError(f"{name} is not finite on a sample: leave those who read it in float")
                found[name] = np.maximum(found[name], largest) if name in found else largest
    if not found:
        raise CalibrationError("no samples to equalize channels by: give at least one with --calib")
    return found


def _balanced(flow: ChannelFlow) -> Array:
    """The paper's factors, float64 by class."""
    factors = np.ones(len(flow.free))
    for _ in range(_ROUNDS):
        given = _largest(flow.producers, factors, lambda s, f: _scaled(flow, s.node, f)[0])
        read = _largest(flow.consumers, factors, lambda s, f: _scaled(flow, s.node, f)[1])
        usable = flow.free & (given > 0) & (read > 0)
        wanted = factors * np.sqrt(np.where(usable, given, 1.0) / np.where(usable, read, 1.0))
        wanted = np.clip(wanted, 1 / _LARGEST, _LARGEST)
        change = np.abs(wanted / factors - 1).max()
        factors = wanted
        if change < _SETTLED:
            break
    return factors


def _migrated(flow: ChannelFlow, magnitudes: Mapping[str, Array], alpha: float) -> Array:
    """Factors that take ``alpha`` of the spread of the activations' channels, float64 by class."""
    ones = np.ones(len(flow.free))
    known = [s for s in flow.consumers if _read(s) in magnitudes]
    wide = _largest(known, ones, lambda s, _: magnitudes[_read(s)])
    read = _largest(flow.consumers, ones, lambda s, f: _scaled(flow, s.node, f)[1])
    usable = flow.free & (wide > 0) & (read > 0)
    logs = alpha * np.log(np.where(usable, wide, 1.0)) - (1 - alpha) * np.log(np.where(usable, read, 1.0))
    # only ratios within a group count: a mean of 1 keeps float32 and FP16 away from their ends
    counts = np.maximum(np.bincount(flow.group, usable), 1)
    logs -= (np.bincount(flow.group, logs * usable) / counts)[flow.group]
    factors: Array = np.where(usable, np.clip(np.exp(logs), 1 / _LARGEST, _LARGEST), 1.0)
    return factors


def _largest(sides: Sequence[Side], factors: Array, figures: Callable[[Side, Array], Array]) -> Array:
    """The largest figure of each class with these factors, float64; 0 where no side has it."""
    found = np.zeros(len(factors))
    for side in sides:
        np.maximum.at(found, side.channels, figures(side, factors))
    return found


def _scaled(flow: ChannelFlow, node: ir.Node, factors: Array) -> tuple[Array, Array]:
    """The largest scaled weight of each channel that a layer gives, and of each that it reads."""
    weight = np.abs(_scaled_weight(flow, node, factors))
    if node.op_type == "Gemm":
        outs, ins = weight.max(axis=1), weight.max(axis=0)
        return (outs, ins) if node.attributes.get_int("transB", 0) else (ins, outs)
    kernel = weight.reshape(weight.shape[0], weight.shape[1], -1).max(axis=2, initial=0.0)
    by_group = kernel.reshape(node.attributes.get_int("group", 1), -1, weight.shape[1])
    return kernel.max(axis=1), by_group.max(axis=1).reshape(-1)


def _scaled_weight(flow: ChannelFlow, node: ir.Node, factors: Array) -> Array:
    """A layer's weight: what it reads is multiplied, what it gives divided."""
    weight = _array(node, 1)
    given = next((s.channels for s in flow.producers if s.node is node), None)
    read = next((s.channels for s in flow.consumers if s.node is node), None)
    if given is not None:
        weight = weight / _of_outputs(node, weight, factors[given])
    if read is not None:
        weight = weight * _of_inputs(node, weight, factors[read])
    return weight


def _of_outputs(node: ir.Node, weight: Array, factor: Array) -> Array:
    if node.op_type == "Gemm":
        return factor[:, None] if node.attributes.get_int("transB", 0) else factor[None, :]
    return factor.reshape(-1, *[1] * (weight.ndim - 1))


def _of_inputs(node: ir.Node, weight: Array, factor: Array) -> Array:
    if node.op_type == "Gemm":
        return factor[None, :] if node.attributes.get_int("transB", 0) else factor[:, None]
    groups = node.attributes.get_int("group", 1)
    by_row = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return by_row.reshape(*by_row.shape, *[1] * (weight.ndim - 2))


def _apply(graph: Graph, flow: ChannelFlow, factors: Array) -> None:
    scaled = {
        id(side.node): (side.node, _scaled_weight(flow, side.node, factors))
        for side in (*flow.producers, *flow.consumers)
        if (factors[side.channels] != 1).any()
    }
    for node, weight in scaled.values():
        replace(graph, node, 1, weight)
    for side in flow.producers:
        bias = side.node.inputs[2] if len(side.node.inputs) > 2 else None
        if bias is not None and (factors[side.channels] != 1).any():
            old = _array(side.node, 2)
            replace(graph, side.node, 2, (old.reshape(-1) / factors[side.channels]).reshape(old.shape))
    for value, channels in flow.values:
        # whoever compares two graphs' tensors by name would else take them for what they were
        if (factors[channels] != 1).any():
            value.name = f"{value.name}/equalized"


def _lines(flow: ChannelFlow, factors: Array) -> list[str]:
    lines = []
    for group in np.unique(flow.group[factors != 1]):
        within = [
            ", ".join(dict.fromkeys(str(s.node.name) for s in sides if (flow.group[s.channels] == group).any()))
            for sides in (flow.producers, flow.consumers)
        ]
        used = factors[flow.group == group]
        lines.append(f"{within[0]} -> {within[1]}: {used.size} channels, factors {used.min():.3g} to {used.max():.3g}")
    return lines


def _read(side: Side) -> str:
    value = side.node.inputs[0]
    return str(value.name) if value is not None else ""


def _array(node: ir.Node, index: int) -> Array:
    """A constant input, float64."""
    tensor = constant(node.inputs[index])
    assert tensor is not None  # channel_flow() asked
    return np.asarray(tensor.numpy(), np.float64)
