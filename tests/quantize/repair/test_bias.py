"""Bias correction: shifts against means taken from all values, and networks whose outputs come nearer."""

from __future__ import annotations

import numpy as np
import pytest

from edgebig.errors import CalibrationError, GraphError
from edgebig.graph import Executor, Graph
from edgebig.quantize import insert_qdq, make_plan
from edgebig.quantize.repair.bias import add_to_bias, bias_shifts
from edgebig.recipe import Recipe
from edgebig.target import Target
from tests.nets import conv_net, flat_ranges, net, node, normal, op_types, ranges_of, residual_net, run, samples_for


def quantized(graph: Graph, target: str, low: float = -4.0, high: float = 4.0) -> Graph:
    """A graph whose activations clip, so that its layers' outputs are shifted."""
    copy = graph.clone()
    insert_qdq(copy, make_plan(copy, flat_ranges(copy, low, high), Target.load(target), Recipe(), "int8"))
    return copy


def fetched(graph: Graph, layer: str, samples: list[dict[str, np.ndarray]]) -> np.ndarray:
    copy = graph.clone()
    main = copy.model.graph
    value = next(n for n in main if n.name == layer).outputs[0]
    main.outputs.clear()
    main.outputs.append(value)
    with Executor(copy, "off") as executor:
        return np.concatenate([executor.run(s)[str(value.name)] for s in samples]).astype(np.float64)


@pytest.mark.parametrize("target", ["cpu", "l4"])
def test_the_first_layers_shift_is_the_mean_difference(target: str) -> None:
    graph = conv_net()
    samples = samples_for(graph, 5)
    rough = quantized(graph, target, -1.0, 1.0)
    found = bias_shifts(graph, rough, ["conv1", "y"], samples)
    expected = (fetched(graph, "conv1", samples) - fetched(rough, "conv1", samples)).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(found["conv1"], expected, atol=1e-5)
    assert np.abs(expected).max() > 0.01 and found["y"].shape == (4,)


@pytest.mark.parametrize("target", ["cpu", "l4"])
@pytest.mark.parametrize("make", [conv_net, residual_net])
def test_corrected_layers_have_the_float_means(make: object, target: str) -> None:
    graph: Graph = make()  # type: ignore[operator]
    samples = samples_for(graph, 6)
    ranges = ranges_of(graph, samples)
    layers = [str(n.name) for n in graph.model.graph if n.op_type in {"Conv", "Gemm"}]

    def rounded(source: Graph) -> Graph:
        copy = source.clone()
        insert_qdq(copy, make_plan(copy, ranges, Target.load(target), Recipe(), "int8"))
        return copy

    def off(found: Graph) -> float:
        means = [(fetched(graph, n, samples) - fetched(found, n, samples)) for n in layers]
        return max(float(np.abs(m.mean(axis=(0, *range(2, m.ndim)))).max()) for m in means)

    shifts = bias_shifts(graph, rounded(graph), layers, samples)
    corrected = graph.clone()
    assert add_to_bias(corrected, shifts) == []
    before, after = off(rounded(graph)), off(rounded(corrected))
    # what stays is the rounding of biases to whole steps and of what follows from them
    assert after < 0.2 * before


def test_neither_graph_changes_and_batches_change_nothing() -> None:
    graph = conv_net()
    rough = quantized(graph, "l4")
    before = graph.digest(), rough.digest()
    samples = samples_for(graph, 4)
    together = [{"x": np.concatenate([s["x"] for s in samples])}]
    apart = bias_shifts(graph, rough, ["conv1", "conv2"], samples)
    assert (graph.digest(), rough.digest()) == before
    whole = bias_shifts(graph, rough, ["conv1", "conv2"], together)
    for name in apart:
        np.testing.assert_allclose(apart[name], whole[name], atol=1e-5)


def test_where_a_shift_goes() -> None:
    graph = net(
        [
            node("Conv", "x w", "conv"),
            node("GlobalAveragePool", "conv", "mean"),
            node("Flatten", "mean", "flat"),
            node("MatMul", "flat m", "product"),
            node("Add", "c product", "sum"),
            node("Gemm", "sum g c", "gemm", beta=0.5),
            node("MatMul", "gemm m", "bare"),
            node("Relu", "bare", "y"),
        ],
        {"x": ["batch", 2, 4, 4]},
        ["y"],
        {
            "w": normal(3, 2, 1, 1),
            "m": normal(3, 3, seed=1),
            "g": normal(3, 3, seed=2),
            "c": normal(3, seed=3),
        },
    )
    shift = np.array([1.0, -2.0, 3.0])
    plain = graph.clone()
    sample = samples_for(graph, 1)[0]
    declined = add_to_bias(graph, dict.fromkeys(("conv", "product", "gemm", "bare"), shift))
    assert declined == ["bare: its bias is not corrected: no Add alone reads it, and one more would cost time"]
    assert op_types(graph) == op_types(plain)
    difference = fetched(graph, "conv", [sample]) - fetched(plain, "conv", [sample])
    np.testing.assert_allclose(difference, np.broadcast_to(shift[:, None, None], difference.shape), atol=1e-5)
    weights = {n: v.const_value.numpy() for n, v in plain.model.graph.initializers.items() if v.const_value is not None}
    x = sample["x"].astype(np.float64)
    conv = np.einsum("nchw,oc->nohw", x, weights["w"][:, :, 0, 0]) + shift[:, None, None]
    total = conv.mean(axis=(2, 3)) @ weights["m"] + weights["c"] + shift
    gemm = total @ weights["g"] + 0.5 * weights["c"] + shift
    np.testing.assert_allclose(run(graph, sample)["y"], np.maximum(gemm @ weights["m"], 0), rtol=1e-4, atol=1e-4)


def test_what_is_refused() -> None:
    graph = conv_net()
    rough = quantized(graph, "cpu")
    with pytest.raises(GraphError, match="no layer 'relu' in both graphs"):
        bias_shifts(graph, rough, ["relu"], samples_for(graph, 1))
    with pytest.raises(CalibrationError, match="no samples"):
        bias_shifts(graph, rough, ["conv1"], [])
    broken = {"x": np.full((1, 3, 8, 8), np.nan, np.float32)}
    with pytest.raises(CalibrationError, match="not finite"):
        bias_shifts(graph, rough, ["conv1"], [broken])
    assert bias_shifts(graph, rough, [], samples_for(graph, 1)) == {}
