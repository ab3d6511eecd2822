"""Runs the samples through the graph and collects the range of each tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from edgebig.calibrate.observers import MinMaxObserver
from edgebig.calibrate.ranges import Ranges
from edgebig.calibrate.samples import Sample, Samples
from edgebig.errors import CalibrationError
from edgebig.graph import Executor, Graph

Tick = Callable[[int], None]


def collect_ranges(
    graph: Graph, tensors: Sequence[str], samples: Samples | Iterable[tuple[str, Sample]], source: str, tick: Tick
) -> Ranges:
    """Min-max ranges of ``tensors`` over all samples.

    The extremes are reduced inside the graph, so that a run hands out three numbers for each tensor
    and memory does not grow with their size or with the number of samples.

    Args:
        graph: a float32 graph.
        tensors: names of float tensors of its main graph.
        samples: pairs of where a sample comes from and the sample.
        source: what the samples are, for the manifest.
        tick: called after each sample with the number run so far.

    Raises:
        CalibrationError: no samples, or a tensor became NaN on one.
    """
    observed, probes = _with_probes(graph, tensors)
    observers = {name: MinMaxObserver() for name in probes}
    count = 0
    with Executor(observed) as executor:
        outputs = [output for pair in probes.values() for output in pair]
        for where, sample in samples:
            values = executor.run(sample, outputs)
            for name, (low, high, nan) in probes.items():
                smallest, largest = _extreme(values[low]), _extreme(values[high])
                if math.isnan(smallest) or math.isnan(largest) or _extreme(values[nan]) > 0:
                    raise CalibrationError(f"calibration: the tensor {name!r} became NaN on {where}: check that sample")
                if smallest <= largest:
                    observers[name].update(smallest, largest)
            count += 1
            tick(count)
    if count == 0:
        raise CalibrationError(f"calibration: no samples in {source}: give at least one")
    return Ranges({k: o.range() for k, o in observers.items()}, count, MinMaxObserver.name, source)


def _with_probes(graph: Graph, tensors: Sequence[str]) -> tuple[Graph, dict[str, tuple[str, str, str]]]:
    """A copy of the graph that gives only the extremes and whether there is a NaN, and the names of the three.

    ONNX Runtime's ReduceMin and ReduceMax pass over a NaN unless it comes first, hence the third.
    """
    copy = graph.clone()
    main = copy.model.graph
    values = {v.name: v for v in [*main.inputs, *(o for node in main for o in node.outputs)]}
    probes: dict[str, tuple[str, str, str]] = {}
    outputs: list[ir.Value] = []
    for index, name in enumerate(tensors):
        value = values[name]
        is_nan = ir.Node("", "IsNaN", [value])
        as_float = ir.Node("", "Cast", [is_nan.outputs[0]], [ir.AttrInt64("to", int(ir.DataType.FLOAT))])
        main.extend([is_nan, as_float])
        probed = (("ReduceMin", value), ("ReduceMax", value), ("ReduceMax", as_float.outputs[0]))
        found = [_append_reduction(main, op, read, f"edgebig/{i}/{index}") for i, (op, read) in enumerate(probed)]
        outputs += found
        probes[name] = (str(found[0].name), str(found[1].name), str(found[2].name))
    main.outputs.clear()
    main.outputs.extend(outputs)
    return copy, probes


def _append_reduction(main: ir.Graph, op: str, value: ir.Value, name: str) -> ir.Value:
    node = ir.Node("", op, [value], [ir.AttrInt64("keepdims", 0)])
    result = node.outputs[0]
    result.name, result.type, result.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    main.append(node)
    return result


def _extreme(value: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    return float(value)
