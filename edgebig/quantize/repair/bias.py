"""Bias correction: what quantization shifts each output channel by on average goes into the biases.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2, in its
empirical form (appendix D): the mean over samples and positions of a layer's float output less its quantized one is
added to its bias. Layers are corrected in the graph's order, together only where none depends on another: else a shift
would be corrected where it arises and again in every layer behind, which is worse than no correction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.errors import CalibrationError, GraphError
from edgebig.graph import Executor, Graph
from edgebig.graph.execute import Level
from edgebig.graph.values import constant, consumers, new_initializer
from edgebig.quantize.repair.fold import replace

Array = np.ndarray[Any, Any]
Samples = Iterable[Mapping[str, Array]]

_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_MAPS = {"Conv", "ConvTranspose"}


def bias_shifts(float_graph: Graph, quantized_graph: Graph, nodes: Sequence[str], samples: Samples) -> dict[str, Array]:
    """What is to be added to the layers' biases, by node, float64 ``[channels]``.

    Each step along the longest chain of layers takes a pass of both graphs, up to that step, over the samples. Only
    the values of one step's layers on one sample are alive at a time.

    Args:
        float_graph: the graph that was quantized.
        quantized_graph: it with Q/DQ pairs, before any lowering to FP16; neither is changed.
        nodes: names of Conv, ConvTranspose, Gemm or MatMul nodes of both graphs.
        samples: inputs of the graphs; iterated twice for each step.

    Raises:
        CalibrationError: no samples, or an output is not finite.
        GraphError: a node is not in both graphs.
    """
    wanted = set(nodes)
    exact, rounded = float_graph.clone(), quantized_graph.clone()
    order = [str(n.name) for n in exact.model.graph if n.name in wanted and n.op_type in _LAYERS]
    missing = wanted - set(order) | (wanted - {str(n.name) for n in rounded.model.graph})
    if missing:
        raise GraphError(f"no layer {sorted(missing)[0]!r} in both graphs: name layers of the graph that was quantized")
    found: dict[str, Array] = {}
    for names in _steps(exact, set(order)):
        expected, given = _means(exact, names, "all", samples), _means(rounded, names, "off", samples)
        for name in names:
            found[name] = expected[name] - given[name]
        _add_behind(rounded, {name: found[name] for name in names})
    return found


def add_to_bias(graph: Graph, shifts: Mapping[str, Array]) -> list[str]:
    """Adds shifts to the biases of a float graph, in place.

    Convolutions and Gemms that have no bias get one, so that a plan has to be made anew; the bias of a MatMul is the
    constant vector of the Add that alone reads it.

    Args:
        graph: the float graph.
        shifts: by node, ``[channels]``.

    Returns:
        A line for each layer that has no place for a bias, with the reason.
    """
    declined = []
    for node in list(graph.model.graph):
        if str(node.name) not in shifts:
            continue
        shift = np.asarray(shifts[str(node.name)], np.float64)
        why = _in_addition(graph, node, shift) if node.op_type == "MatMul" else _in_layer(graph, node, shift)
        declined += [f"{node.name}: its bias is not corrected: {why}"] if why is not None else []
    return declined


def _steps(graph: Graph, names: set[str]) -> list[list[str]]:
    """The layers by the number of layers on the longest way to them: those of one step do not depend on each other."""
    behind: dict[int, int] = {}
    steps: dict[int, list[str]] = {}
    for node in graph.model.graph:
        depth = max((behind.get(id(value), 0) for value in node.inputs), default=0)
        if str(node.name) in names:
            steps.setdefault(depth, []).append(str(node.name))
            depth += 1
        behind |= {id(value): depth for value in node.outputs}
    return [steps[depth] for depth in sorted(steps)]


def _means(graph: Graph, names: Sequence[str], level: Level, samples: Samples) -> dict[str, Array]:
    """The mean of each output channel of the layers, float64 ``[channels]``."""
    probed = graph.clone()
    main = probed.model.graph
    nodes = {str(node.name): node for node in main}
    main.outputs.clear()
    main.outputs.extend(nodes[name].outputs[0] for name in names)
    totals: dict[str, Array] = {}
    counts = dict.fromkeys(names, 0)
    with Executor(probed, level) as executor:
        for sample in samples:
            values = executor.run(sample)
            for name in names:
                value = values[str(nodes[name].outputs[0].name)]
                axis = 1 if nodes[name].op_type in _MAPS else value.ndim - 1
                others = tuple(a for a in range(value.ndim) if a != axis)
                totals[name] = totals.get(name, 0.0) + value.sum(axis=others, dtype=np.float64)
                counts[name] += value.size // value.shape[axis]
    if not totals:
        raise CalibrationError("no samples to correct biases with: give at least one with --calib")
    strange = next((name for name, total in totals.items() if not np.isfinite(total).all()), None)
    if strange is not None:
        raise CalibrationError(f"{strange} gives values that are not finite: leave it in float")
    return {name: totals[name] / max(counts[name], 1) for name in names}


def _add_behind(graph: Graph, shifts: Mapping[str, Array]) -> None:
    """Adds to the layers' outputs what will be added to their biases."""
    for node in list(graph.model.graph):
        if str(node.name) not in shifts:
            continue
        value = node.outputs[0]
        array = shifts[str(node.name)].astype(np.float32)
        if node.op_type in _MAPS and value.shape is not None:
            array = array.reshape(-1, *[1] * (len(value.shape) - 2))
        shift = new_initializer(graph, f"{node.name}/shift", array)
        add = ir.Node("", "Add", [value, shift], name=f"{node.name}/corrected")
        result = add.outputs[0]
        result.name, result.type, result.shape = f"{value.name}/corrected", value.type, value.shape
        # an output of the model stays: nothing comes after it
        for reader, index in list(value.uses()):
            if reader is not add:
                reader.replace_input_with(index, result)
        graph.model.graph.insert_after(node, [add])


def _in_layer(graph: Graph, node: ir.Node, shift: Array) -> str | None:
    """Adds to the bias of a convolution or Gemm, or says why that is not possible."""
    scale = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    if scale == 0:
        return "its beta is 0"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        node.resize_inputs(3)
        node.replace_input_with(2, new_initializer(graph, f"{node.name}/bias", (shift / scale).astype(np.float32)))
        return None
    tensor = constant(bias)
    if tensor is None:
        return "it is computed"
    replace(graph, node, 2, np.asarray(tensor.numpy(), np.float64) + shift / scale)
    return None


def _in_addition(graph: Graph, node: ir.Node, shift: Array) -> str | None:
    """Adds to the constant that is added to a product, or says why that is not possible."""
    readers = consumers(node.outputs[0])
    add = readers[0] if len(readers) == 1 and not node.outputs[0].is_graph_output() else None
    if add is None or add.op_type != "Add" or add.domain:
        return "no Add alone reads it, and one more would cost time"
    index = 1 if add.inputs[0] is node.outputs[0] else 0
    tensor = constant(add.inputs[index])
    array = None if tensor is None else np.asarray(tensor.numpy(), np.float64)
    if array is None or array.size != shift.size or array.shape[-1:] != shift.shape:
        return "what is added to it is no vector of its channels"
    replace(graph, add, index, array + shift)
    return None
