"""Probes: a copy of the graph that hands out what calibration asks of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgebig.graph import Graph

_SAME_VALUES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Concat"}
"""Operators whose output holds the values of their data inputs and no others."""


@dataclass(frozen=True)
class Probes:
    """Names of the outputs to fetch.

    Attributes:
        extremes: for each tensor, the outputs that hold its smallest value, its largest, and its sum,
            which alone shows a NaN: ONNX Runtime's minimum and maximum pass over it.
        values: tensors that are fetched whole.
        derived: tensors whose statistics follow from those of others, with these others, which come before them.
    """

    extremes: dict[str, tuple[str, str, str]]
    values: tuple[str, ...]
    derived: dict[str, tuple[str, ...]]


def with_probes(
    graph: Graph, tensors: Sequence[str], counted: Sequence[str], kept: Sequence[str] = ()
) -> tuple[Graph, Probes]:
    """A copy of the graph that gives what calibration needs, and nothing else.

    Args:
        graph: a float32 graph.
        tensors: whose extremes are wanted; they are reduced inside the graph.
        counted: whose values are wanted too. A tensor that only moves or joins the values of other
            counted ones is not fetched.
        kept: outputs of the graph that stay.
    """
    copy = graph.clone()
    main = copy.model.graph
    values = {str(v.name): v for v in [*main.inputs, *(o for node in main for o in node.outputs)]}
    derived: dict[str, tuple[str, ...]] = {}
    fetched: list[str] = []
    wanted = set(counted)
    # in the graph's order, so that what a tensor follows from comes before it
    for name in sorted(wanted, key=list(values).index):
        sources = _sources(values[name])
        if sources and all(source in wanted for source in sources):
            derived[name] = sources
        else:
            fetched.append(name)
    reduced = [name for name in tensors if name not in wanted]
    extremes = {}
    outputs: list[ir.Value] = []
    for index, name in enumerate(reduced):
        low, high, total = (_reduce(main, values[name], op, index) for op in ("ReduceMin", "ReduceMax", "ReduceSum"))
        extremes[name] = (str(low.name), str(high.name), str(total.name))
        outputs += [low, high, total]
    inputs = {str(v.name) for v in main.inputs}
    whole = dict.fromkeys(name for name in [*fetched, *kept] if name not in inputs)
    outputs += [values[name] for name in whole]
    main.outputs.clear()
    main.outputs.extend(outputs)
    return copy, Probes(extremes, tuple(fetched), derived)


def _sources(value: ir.Value) -> tuple[str, ...]:
    producer = value.producer()
    if producer is None or producer.op_type not in _SAME_VALUES or producer.domain:
        return ()
    data = producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]
    return tuple(str(v.name) for v in data if v is not None)


def _reduce(main: ir.Graph, value: ir.Value, op: str, index: int) -> ir.Value:
    node = ir.Node("", op, [value], [ir.AttrInt64("keepdims", 0)])
    result = node.outputs[0]
    result.name = f"edgebig/{op}/{index}"
    result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    main.append(node)
    return result
