"""Compares two graphs layer by layer: where the error comes from, and where it is seen."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Executor, Graph
from edgebig.graph.execute import Level
from edgebig.graph.groups import in_groups
from edgebig.graph.work import observed_shapes
from edgebig.similarity import Similarity
from edgebig.verify.formats import formats_of
from edgebig.verify.inject import injected_noise
from edgebig.verify.subgraph import Piece, cut, shared_tensors, with_outputs
from edgebig.verify.tally import Tally

Sample = Mapping[str, np.ndarray[Any, Any]]
MEMORY = 256 << 20
_COPIES = 4
"""A tensor is alive as expected, found, computed from exact inputs, and in float64."""

_BYTES = 4
_PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose", "Attention", "LSTM", "GRU", "RNN", "Einsum"}
_MOST = 64
_LEAST = 16
_INJECTED = 2
_LARGE = 20_000_000
_MOST_COMPARED = 100_000_000
_MOST_COMPUTED = 2_000_000_000
"""Elements of all tensors together: a model of large pictures must not take minutes."""

_FAINT = 1e-3
"""Layers whose own noise is 30 dB below the noisiest one's count as without effect."""


@dataclass(frozen=True)
class Layer:
    """How one layer fares in the graph that is compared.

    Attributes:
        name: the reference's node that computes it; the product or convolution of several that are fused.
        op: that node's operator.
        tensor: its output, which both graphs have.
        format: number formats that it computes with, as ``uint8 x int8`` (activations x weights).
        error: of its output, with everything before it as the compared graph has it.
        own: of its output where it is given the reference's inputs: the noise that it adds itself.
        share: its part of the error of the model's outputs: the noise that its own error alone makes there,
            of the sum over all layers; ``None`` where that was not measured.
    """

    name: str
    op: str
    tensor: str
    format: str
    error: Similarity
    own: Similarity
    share: float | None = None

    @property
    def is_broken(self) -> bool:
        """Whether its output holds a NaN or infinity that it should not, or the reverse."""
        return self.error.max_abs == math.inf


def compare_layers(
    reference: Graph,
    graph: Graph,
    samples: Sequence[Sample],
    level: Level = "off",
    *,
    memory: int = MEMORY,
    shares: bool = True,
) -> list[Layer]:
    """Every layer whose output is a float tensor of the same name in both graphs, in the reference's order.

    Own noise is measured on a graph in which each layer reads the reference's tensors; shares by adding the own
    error of one layer at a time to the reference, on the first two samples, for the 64 noisiest layers. Where the
    tensors of one sample have tens of millions of elements, fewer samples and layers (16 at least) are taken.

    Args:
        reference: what is right.
        graph: what is compared, quantized or lowered.
        samples: inputs that both take.
        level: ONNX Runtime's optimization level for ``graph``.
        memory: bytes of tensors that are alive at once, unless those of one layer need more.
        shares: whether to measure them, which takes a run of the reference for each layer.

    Raises:
        GraphError: one of the graphs does not run on the samples.
    """
    names = shared_tensors(reference, graph)
    if not names or not samples:
        return []
    shapes = observed_shapes(reference, samples[0])
    elements = max(1, sum(math.prod(shapes.get(name, ())) for name in names))
    samples = samples[: max(1, _MOST_COMPARED // elements)]
    sizes = {name: _BYTES * _COPIES * math.prod(shapes.get(name, ())) for name in names}
    error, own = {n: Tally() for n in names}, {n: Tally() for n in names}
    with (
        Executor(with_outputs(reference, names), "basic") as exact,
        Executor(with_outputs(graph, names), level) as found,
    ):
        for group in in_groups(sizes, memory):
            piece = cut(graph, names, group)
            fetched = fetched_for(piece, group, sizes)
            with Executor(piece.graph, level) as alone:
                for sample in samples:
                    expected = exact.run(sample, fetched)
                    _count(error, expected, found.run(sample, group), {n: n for n in group})
                    _count(own, expected, alone.run({**sample, **expected}), piece.outputs)
        noisy = _noisiest(own, max(_LEAST, min(_MOST, _MOST_COMPUTED // elements))) if shares else []
        noise: dict[str, float] = {}
        for group in in_groups({n: sizes[n] for n in noisy}, memory):
            if group:
                noise |= injected_noise(
                    reference, graph, exact, samples[: _INJECTED if elements < _LARGE else 1], names, group, level
                )
    total = sum(noise.values())
    return [
        replace(layer, share=_share(layer, noise, total) if shares else None)
        for layer in _described(reference, graph, error, own)
    ]


def first_jump(layers: Sequence[Layer]) -> Layer | None:
    """The first layer, in the graph's order, at which the error jumps; ``None`` where no layer adds any.

    That is the first whose output holds a NaN or infinity of its own; else the first that makes at least half as
    much of the outputs' error as the layer that makes most, or where shares were not measured, of noise of its own.
    """
    broken = next((layer for layer in layers if layer.is_broken), None)
    if broken is not None:
        return broken
    is_shared = any(layer.share for layer in layers)
    weights = [(layer.share or 0.0) if is_shared else own_ratio(layer) for layer in layers]
    most = max(weights, default=0.0)
    return next((layer for layer, w in zip(layers, weights, strict=True) if w >= most / 2), None) if most > 0 else None


def own_ratio(layer: Layer) -> float:
    """Its own noise over its signal; 0 where there is none."""
    return math.inf if layer.own.sqnr_db == -math.inf else 10 ** (-layer.own.sqnr_db / 10)


def fetched_for(piece: Piece, group: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """What of the reference a piece needs: its inputs, beside the tensors that it is compared on."""
    return list(dict.fromkeys([*group, *(s.name for s in piece.graph.inputs if s.name in known)]))


def _described(reference: Graph, graph: Graph, error: dict[str, Tally], own: dict[str, Tally]) -> list[Layer]:
    formats = formats_of(graph, list(error))
    values = {str(v.name): v for node in reference.model.graph for v in node.outputs}
    found = []
    for name in error:
        node = _main_node(values[name], error)
        similarities = error[name].similarity(), own[name].similarity()
        found.append(Layer(str(node.name), node.op_type, name, formats[name], *similarities))
    return found


def _main_node(value: ir.Value, known: Collection[str]) -> ir.Node:
    """What a layer is called by: its product or convolution, where the compared graph has that fused into it."""
    last = node = value.producer()
    while node is not None and node.op_type not in _PRODUCTS:
        before = [v.producer() for v in node.inputs if v is not None and v.name not in known]
        node = next((n for n in before if n is not None), None)
    chosen = node or last
    if chosen is None:
        raise RuntimeError(f"{value.name} is written by no node")
    return chosen


def _count(tallies: dict[str, Tally], expected: Sample, found: Sample, outputs: Mapping[str, str]) -> None:
    for name, output in outputs.items():
        if expected[name].shape == found[output].shape:
            tallies[name].add(expected[name], found[output])
        else:
            tallies[name].is_broken = True


def _noisiest(own: Mapping[str, Tally], most: int) -> list[str]:
    """Names, in their order, of the layers that are worth a run each."""
    ratios = {name: t.noise_ratio for name, t in own.items() if 0 < t.noise_ratio < math.inf}
    floor = max(ratios.values(), default=0.0) * _FAINT
    chosen = set(sorted((n for n, ratio in ratios.items() if ratio >= floor), key=lambda n: -ratios[n])[:most])
    return [name for name in own if name in chosen]


def _share(layer: Layer, noise: Mapping[str, float], total: float) -> float | None:
    if layer.own.max_abs == math.inf or not math.isfinite(total):
        return None
    return noise.get(layer.tensor, 0.0) / total if total > 0 else 0.0
