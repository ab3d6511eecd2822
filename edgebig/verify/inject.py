"""Adds one layer's error to an exact graph, to see what it does to the outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Executor, Graph
from edgebig.graph.execute import Level
from edgebig.verify.subgraph import FLOATS, cut
from edgebig.verify.tally import Tally, masked

Array = np.ndarray[Any, Any]


def injected_noise(
    reference: Graph,
    graph: Graph,
    exact: Executor,
    samples: Sequence[Mapping[str, Array]],
    boundary: Sequence[str],
    tensors: Sequence[str],
    level: Level,
) -> dict[str, float]:
    """For each tensor, the outputs' noise over their signal when it alone has its own error.

    Args:
        reference: the exact graph.
        graph: the one that is compared.
        exact: runs the reference with every tensor of ``boundary`` as an output.
        samples: the inputs; the noise of all is added up.
        boundary: tensors that both graphs have.
        tensors: those whose error is added, one at a time.
        level: ONNX Runtime's optimization level for ``graph``.
    """
    piece = cut(graph, boundary, tensors)
    taken = [s.name for s in piece.graph.inputs if s.name in set(boundary)]
    open_graph, outputs = _with_additions(reference, tensors)
    noise = dict.fromkeys(tensors, 0.0)
    none = {f"{name}/added": np.zeros((), np.float32) for name in tensors}
    with Executor(piece.graph, level) as alone, Executor(open_graph, "basic") as run:
        for sample in samples if outputs else ():
            expected = exact.run(sample, list(dict.fromkeys([*tensors, *taken])))
            found = alone.run({**sample, **expected})
            clean = run.run({**sample, **none}, outputs)
            for name in tensors:
                added = _difference(expected[name], found[piece.outputs[name]])
                noise[name] += _noise(clean, run.run({**sample, **none, f"{name}/added": added}, outputs))
    return noise


def _with_additions(reference: Graph, tensors: Sequence[str]) -> tuple[Graph, list[str]]:
    """The graph with an input that is added to each of the tensors, and its float outputs' names."""
    copy = reference.clone()
    main = copy.model.graph
    values = {str(v.name): v for node in main for v in node.outputs}
    for name in tensors:
        value, producer = values[name], values[name].producer()
        added = ir.Value(name=f"{name}/added", type=ir.TensorType(ir.DataType.FLOAT))
        node = ir.Node("", "Add", [value, added], name=f"{name}/addition")
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"{name}/sum", value.type, value.shape
        ir.convenience.replace_all_uses_with(value, node.outputs[0], replace_graph_outputs=True)
        node.replace_input_with(0, value)
        main.inputs.append(added)
        if producer is not None:
            main.insert_after(producer, node)
    return copy, [str(v.name) for v in main.outputs if v.dtype in FLOATS]


def _difference(expected: Array, found: Array) -> Array:
    """What must be added to have the found values; nothing at a mask's constants, which would cancel the sum."""
    with np.errstate(invalid="ignore"):
        difference = found.astype(np.float32) - expected.astype(np.float32)
    return np.where(np.isfinite(difference) & ~masked(expected, found), difference, np.float32(0)).astype(np.float32)


def _noise(clean: Mapping[str, Array], noisy: Mapping[str, Array]) -> float:
    total = 0.0
    for name, expected in clean.items():
        tally = Tally()
        tally.add(expected, noisy[name])
        total += tally.noise_ratio if math.isfinite(tally.noise_ratio) else 1.0
    return total
