"""Probes: a copy of the graph that hands out what calibration asks of its tensors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgebig.graph import Graph

_SAME_VALUES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Concat"}
"""Operators whose output holds the values of their data inputs and no others."""


@dataclass(frozen=True)
class Probes:
    """Names of the outputs to fetch.

    Attributes:
        extremes: for each tensor that is reduced in the graph, the outputs that hold its smallest value, its
            largest, and its sum, which alone shows a NaN: ONNX Runtime's minimum and maximum pass over it.
        values: tensors that are fetched whole.
        derived: tensors whose statistics follow from those of others, with these others, all fetched or rectified.
        rectified: outputs of a Relu, each with its input, which is fetched: ONNX Runtime would have to bring both
            out of its own layout.
    """

    extremes: dict[str, tuple[str, str, str]]
    values: tuple[str, ...]
    derived: dict[str, tuple[str, ...]]
    rectified: dict[str, str]


def with_probes(
    graph: Graph,
    tensors: Sequence[str],
    counted: Sequence[str],
    kept: Sequence[str] = (),
    reduced: Collection[str] = (),
) -> tuple[Graph, Probes]:
    """A copy of the graph that gives what calibration needs, and nothing else.

    Args:
        graph: a float32 graph.
        tensors: whose extremes are wanted; those that only move or join the values of others are not fetched.
        counted: those whose histogram is wanted, which follows from those of counted tensors alone.
        kept: outputs of the graph that stay.
        reduced: those of ``tensors`` that are too large to be fetched, none of ``counted``: their extremes
            are computed inside the graph, which is slower for all others, since ONNX Runtime gives each
            reduction one thread, and the counting thread reads the values for less.
    """
    copy = graph.clone()
    main = copy.model.graph
    values = {str(v.name): v for v in [*main.inputs, *(o for node in main for o in node.outputs)]}
    derived: dict[str, tuple[str, ...]] = {}
    fetched: list[str] = []
    with_histogram, whole_values = set(counted), {name for name in tensors if name not in reduced}
    for name in tensors:
        if name in reduced:
            continue
        sources = _sources(values[name], with_histogram if name in with_histogram else whole_values)
        if sources == (name,):
            fetched.append(name)
        else:
            derived[name] = sources
    rectified = {name: source for name in fetched if (source := _rectified(values[name])) in fetched}
    fetched = [name for name in fetched if name not in rectified]
    extremes = {}
    outputs: list[ir.Value] = []
    for index, name in enumerate(name for name in tensors if name in reduced):
        low, high, total = (_reduce(main, values[name], op, index) for op in ("ReduceMin", "ReduceMax", "ReduceSum"))
        extremes[name] = (str(low.name), str(high.name), str(total.name))
        outputs += [low, high, total]
    inputs = {str(v.name) for v in main.inputs}
    whole = dict.fromkeys(name for name in [*fetched, *kept] if name not in inputs)
    outputs += [values[name] for name in whole]
    main.outputs.clear()
    main.outputs.extend(outputs)
    return copy, Probes(extremes, tuple(fetched), derived, rectified)


def _sources(value: ir.Value, available: Collection[str]) -> tuple[str, ...]:
    """The fetched tensors that hold the same values; the tensor itself where there are none."""
    producer = value.producer()
    if producer is None or producer.op_type not in _SAME_VALUES or producer.domain:
        return (str(value.name),)
    data = [v for v in (producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]) if v is not None]
    if not all(v.name in available for v in data):
        return (str(value.name),)
    return tuple(source for v in data for source in _sources(v, available))


def _rectified(value: ir.Value) -> str | None:
    """The input of the Relu that makes the value."""
    producer = value.producer()
    if producer is None or producer.op_type != "Relu" or producer.domain or producer.inputs[0] is None:
        return None
    return producer.inputs[0].name


def _reduce(main: ir.Graph, value: ir.Value, op: str, index: int) -> ir.Value:
    node = ir.Node("", op, [value], [ir.AttrInt64("keepdims", 0)])
    result = node.outputs[0]
    result.name = f"edgebig/{op}/{index}"
    result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    main.append(node)
    return result
