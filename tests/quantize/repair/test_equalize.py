"""Cross-layer equalization: the same outputs, ranges that meet, and channels that are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebig.errors import CalibrationError
from edgebig.graph import Executor, Graph
from edgebig.graph.passes import (
    FoldBatchNorm,
    FoldConstants,
    NameNodes,
    RaiseOpset,
    RaiseToFloat32,
    RemoveNoOps,
    run_passes,
)
from edgebig.quantize.repair.equalize import channel_magnitudes, equalize
from tests.nets import conv_net, net, node, normal, residual_net, run, samples_for


def uneven(*shape: int, seed: int, axis: int = 0) -> np.ndarray:
    """Weights whose channels differ a hundredfold."""
    scale = 10.0 ** np.random.default_rng(seed + 100).uniform(-1, 1, shape[axis])
    return (normal(*shape, seed=seed) * scale.reshape([-1 if a == axis else 1 for a in range(len(shape))])).astype(
        np.float32
    )


def fire_net(activation: str = "Relu") -> Graph:
    """A squeeze that two expansions read, their Concat, a depthwise convolution, a grouped one."""
    return net(
        [
            node("Conv", "x w1 b1", "squeeze"),
            node(activation, "squeeze", "squeezed"),
            node("Conv", "squeezed w2 b2", "one"),
            node("Conv", "squeezed w3", "three", pads=[1, 1, 1, 1]),
            node("LeakyRelu", "one", "active"),
            node("Concat", "active three", "joined", axis=1),
            node("MaxPool", "joined", "pooled", kernel_shape=[2, 2]),
            node("Conv", "pooled w4 b4", "depthwise", group=8),
            node("Conv", "depthwise w5", "grouped", group=2),
            node("GlobalAveragePool", "grouped", "mean"),
            node("Conv", "mean w6", "y"),
        ],
        {"x": ["batch", 3, 8, 8]},
        ["y"],
        {
            "w1": uneven(4, 3, 3, 3, seed=1),
            "b1": normal(4, seed=2),
            "w2": uneven(4, 4, 1, 1, seed=3),
            "b2": normal(4, seed=4),
            "w3": uneven(4, 4, 3, 3, seed=5),
            "w4": uneven(8, 1, 3, 3, seed=6),
            "b4": normal(8, seed=7),
            "w5": uneven(6, 4, 1, 1, seed=8),
            "w6": uneven(5, 6, 1, 1, seed=9),
        },
    )


def weight(graph: Graph, name: str) -> np.ndarray:
    found = next(n for n in graph.model.graph if n.name == name).inputs[1]
    assert found is not None and found.const_value is not None
    return np.abs(found.const_value.numpy().astype(np.float64))


def close(graph: Graph, other: Graph, samples: list[dict[str, np.ndarray]]) -> None:
    for sample in samples:
        expected, found = run(graph, sample), run(other, sample)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5 * np.abs(value).max())


@pytest.mark.parametrize("by", ["weights", "activations"])
@pytest.mark.parametrize("make", [conv_net, residual_net, fire_net])
def test_outputs_stay_and_something_moves(make: object, by: str) -> None:
    graph: Graph = make()  # type: ignore[operator]
    samples = samples_for(graph, 3, batch=2)
    changed = graph.clone()
    lines = equalize(changed, channel_magnitudes(graph, samples) if by == "activations" else None)
    assert lines and changed.digest() != graph.digest()
    close(graph, changed, samples)


def test_the_ranges_of_both_sides_meet() -> None:
    graph = fire_net()
    equalize(graph)
    given = weight(graph, "squeeze").max(axis=(1, 2, 3))
    read = np.maximum(weight(graph, "one").max(axis=(0, 2, 3)), weight(graph, "three").max(axis=(0, 2, 3)))
    np.testing.assert_allclose(given, read, rtol=1e-3)
    both = np.concatenate([weight(graph, name).max(axis=(1, 2, 3)) for name in ("one", "three")])
    np.testing.assert_allclose(both, weight(graph, "depthwise").max(axis=(1, 2, 3)), rtol=1e-3)
    groups = weight(graph, "grouped").reshape(2, 3, 4).max(axis=1).reshape(-1)
    np.testing.assert_allclose(weight(graph, "depthwise").max(axis=(1, 2, 3)), groups, rtol=1e-3)


def test_with_full_strength_all_channels_of_an_activation_reach_as_far() -> None:
    graph = fire_net()
    samples = samples_for(graph, 4)
    equalize(graph, channel_magnitudes(graph, samples), 1.0)
    for name, found in channel_magnitudes(graph, samples).items():
        alive = found[found > 0]
        assert "equalized" in name and alive.max() / alive.min() < 1.001


@pytest.mark.parametrize("operator", ["Sigmoid", "HardSwish"])
def test_channels_before_other_operators_stay(operator: str) -> None:
    graph = fire_net(operator)
    before = weight(graph, "squeeze")
    samples, changed = samples_for(graph, 2), graph.clone()
    assert equalize(changed)
    np.testing.assert_array_equal(weight(changed, "squeeze"), before)
    close(graph, changed, samples)


def test_what_is_read_elsewhere_or_given_out_stays() -> None:
    nodes = [node("Conv", "x w1", "a"), node("Relu", "a", "b"), node("Conv", "b w2", "y")]
    weights = {"w1": uneven(4, 3, 1, 1, seed=1), "w2": uneven(4, 4, 1, 1, seed=2)}
    inputs = {"x": ["batch", 3, 4, 4]}
    assert equalize(net(nodes, inputs, ["y"], weights))
    assert equalize(net(nodes, inputs, ["y", "b"], weights)) == []
    clipped = [nodes[0], node("Clip", "a zero six", "b"), nodes[2]]
    limits = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    assert equalize(net(clipped, inputs, ["y"], weights | limits)) == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), strength=st.floats(0, 1), dead=st.booleans())
def test_any_weights_keep_the_outputs(seed: int, strength: float, dead: bool) -> None:
    graph = fire_net()
    random = np.random.default_rng(seed)
    for value in graph.model.graph.initializers.values():
        assert value.const_value is not None
        array = random.standard_normal(tuple(value.const_value.shape.numpy())).astype(np.float32)
        if dead:
            array[0] = 0
        import onnx_ir as ir

        value.const_value = ir.tensor(array, name=value.name)
    samples, changed = samples_for(graph, 2, seed), graph.clone()
    equalize(changed, channel_magnitudes(graph, samples), strength)
    close(graph, changed, samples)


def test_no_samples() -> None:
    with pytest.raises(CalibrationError, match="no samples"):
        channel_magnitudes(fire_net(), [])


@pytest.mark.parametrize(
    ("file", "size"),
    [
        ("squeezenet/squeezenet1.1_fp32.onnx", (1, 3, 224, 224)),
        ("ultraface/version-RFB-320.onnx", (1, 3, 240, 320)),
        ("twinlitenet/best.onnx", (1, 3, 360, 640)),
    ],
)
def test_real_networks(shared_data: Path, file: str, size: tuple[int, ...]) -> None:
    graph = Graph.load(shared_data / file)
    passes = [RaiseOpset(19), RaiseToFloat32(), FoldBatchNorm(), FoldConstants(), RemoveNoOps(), NameNodes()]
    run_passes(graph, passes)
    sample = {graph.inputs[0].name: normal(*size, seed=3, scale=30.0 if "squeeze" in file else 0.5)}
    changed = graph.clone()
    assert equalize(changed, channel_magnitudes(graph, [sample]))
    with Executor(graph) as one, Executor(changed) as other:
        expected, found = one.run(sample), other.run(sample)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4 * np.abs(value).max())
