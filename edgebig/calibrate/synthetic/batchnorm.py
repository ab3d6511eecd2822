"""BatchNorm statistics: what a trained graph remembers of its training data.

Training leaves each BatchNormalization with the mean and the variance of what it was given. Made
inputs that lead to the same moments are near the training data as far as the network is concerned
(Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", 2020). ZeroQ descends a gradient; here
inputs are chosen, which needs no framework and keeps them pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Executor, Graph
from edgebig.graph.values import constant

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]

_AXES_ARE_INPUTS = 18
"""The opset from which ReduceMean takes its axes as an input."""


class NormMoments:
    """Compares the moments at a graph's BatchNormalizations with those that they remember.

    Attributes:
        layers: number of BatchNormalizations with stored statistics; 0 where the graph keeps none.
    """

    def __init__(self, original: Path, constants: Mapping[str, Array]) -> None:
        """Loads the graph.

        Args:
            original: the ONNX file as it came, where nothing is folded yet.
            constants: values of inputs that samples do not hold.

        Raises:
            GraphError: ONNX Runtime refuses the graph.
        """
        graph = Graph.load(original)
        kept = [_statistics(node) for node in graph.model.graph]
        found = [k for k in kept if k is not None]
        self.layers = len(found)
        self._constants = dict(constants)
        self._dtypes = {s.name: s.dtype for s in graph.inputs}
        self._executor: Executor | None = None
        if not found:
            return
        self._means = np.concatenate([mean for _, mean, _ in found])
        self._variances = np.concatenate([variance for _, _, variance in found])
        # layers count alike, whether they have 16 channels or 2048
        self._shares = np.concatenate([np.full(mean.size, 1 / mean.size / self.layers) for _, mean, _ in found])
        self._outputs = _with_moments(graph, [value for value, _, _ in found])
        self._executor = Executor(graph, "basic")

    def moments(self, sample: Sample) -> Array:
        """Mean and mean square of each channel before each BatchNormalization, float64 ``[2, channels]``."""
        if self._executor is None:
            return np.zeros((2, 0))
        feeds = {k: v.astype(self._dtypes[k]) for k, v in sample.items() if k in self._dtypes}
        values = self._executor.run({**feeds, **self._constants}, [name for pair in self._outputs for name in pair])
        rows = [[values[pair[i]].reshape(-1) for pair in self._outputs] for i in (0, 1)]
        return np.stack([np.concatenate(row) for row in rows]).astype(np.float64)

    def distance(self, moments: Array) -> float:
        """How far moments are from the stored ones, 0 for equal ones.

        The mean over layers and channels of log(1 + D), with D the Kullback-Leibler divergence
        between normal distributions of these moments. The logarithm keeps a few dead channels, whose
        variance is nearly 0, from outweighing all others.
        """
        variance = np.maximum(moments[1] - moments[0] ** 2, 0) + self._variances * 1e-3
        shift = (moments[0] - self._means) ** 2
        divergence = 0.5 * (np.log(self._variances / variance) + (variance + shift) / self._variances - 1)
        return float((np.log1p(np.maximum(divergence, 0)) * self._shares).sum())

    def close(self) -> None:
        """Frees the session."""
        if self._executor is not None:
            self._executor.close()

    def __enter__(self) -> NormMoments:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def choose(
    norms: NormMoments, make: Callable[[int], Sample], count: int, candidates: int, tick: Callable[[int], None] | None
) -> tuple[list[int], float, float]:
    """Numbers of made samples that together come nearest to the stored statistics.

    One after the other: of each ``candidates`` neighbouring numbers that one is kept which, with
    all kept before, gives the nearest moments (herding; Welling, 2009). Only sums are held.

    Returns:
        The numbers, the distance of those kept, and the distance of all that were tried.
    """
    chosen: list[int] = []
    kept, tried = np.zeros((2, 1)), np.zeros((2, 1))
    for index in range(count):
        numbers = range(index * candidates, (index + 1) * candidates)
        found = [norms.moments(make(number)) for number in numbers]
        best = min(range(candidates), key=lambda i: norms.distance((kept + found[i]) / (index + 1)))
        chosen.append(numbers[best])
        kept, tried = kept + found[best], tried + sum(found)
        if tick is not None:
            tick(index + 1)
    return chosen, norms.distance(kept / count), norms.distance(tried / (count * candidates))


def _statistics(node: ir.Node) -> tuple[ir.Value, Array, Array] | None:
    """What a BatchNormalization reads, and the mean and variance that it remembers."""
    if node.op_type != "BatchNormalization" or node.inputs[0] is None:
        return None
    mean, variance = constant(node.inputs[3]), constant(node.inputs[4])
    if mean is None or variance is None:
        return None
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return node.inputs[0], mean.numpy().astype(np.float64), variance.numpy().astype(np.float64) + epsilon


def _with_moments(graph: Graph, values: list[ir.Value]) -> list[tuple[str, str]]:
    """Makes the graph give, instead of its outputs, the moments of each value's channels."""
    main = graph.model.graph
    outputs: list[ir.Value] = []
    names: list[tuple[str, str]] = []
    for index, value in enumerate(values):
        axes = [a for a in range(len(value.shape) if value.shape is not None else 4) if a != 1]
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", ir.DataType.FLOAT.value)])
        square = ir.Node("", "Mul", [cast.outputs[0], cast.outputs[0]])
        means = [_mean(graph, node.outputs[0], axes, f"{index}/{i}") for i, node in enumerate((cast, square))]
        for node in (cast, square, *means):
            main.append(node)
        for place, node in enumerate((cast, square)):
            node.outputs[0].name = f"edgebig/moment/{index}/{place}/value"
        pair = (f"edgebig/moment/{index}/0", f"edgebig/moment/{index}/1")
        for node, name in zip(means, pair, strict=True):
            node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
            outputs.append(node.outputs[0])
        names.append(pair)
    main.outputs.clear()
    main.outputs.extend(outputs)
    return names


def _mean(graph: Graph, value: ir.Value, axes: list[int], label: str) -> ir.Node:
    keep = ir.AttrInt64("keepdims", 0)
    if graph.opset < _AXES_ARE_INPUTS:
        return ir.Node("", "ReduceMean", [value], [ir.AttrInt64s("axes", axes), keep])
    name = f"edgebig/axes/{label}"
    listed = ir.Value(name=name, const_value=ir.tensor(np.asarray(axes, np.int64), name=name))
    graph.model.graph.initializers[name] = listed
    return ir.Node("", "ReduceMean", [value, listed], [keep])
