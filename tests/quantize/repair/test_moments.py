"""Moments against float64 sums of what layers read; patches against ONNX Runtime's own convolutions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Array, attention_net, conv_net, net, node, normal, run, samples_for

from edgebig.errors import CalibrationError
from edgebig.graph import Graph
from edgebig.quantize.repair.matrices import from_matrices, matrix_shape, refusal, to_matrices
from edgebig.quantize.repair.moments import Moments, layer_moments
from edgebig.quantize.repair.patches import rows_of


def layer(graph: Graph, name: str) -> ir.Node:
    return next(n for n in graph.model.graph if n.name == name)


def moments_of(graph: Graph, names: list[str], samples: list[dict[str, Array]], memory: int = 1 << 30) -> dict:
    found: dict[str, Moments] = {}
    for layers, moments in layer_moments(graph, names, samples, memory):
        found |= dict.fromkeys(layers, moments)
    return found


def product(node_: ir.Node, value: Array) -> Array:
    """Rows times matrices, ``[items, groups, rows, columns]``."""
    weight = to_matrices(node_, node_.inputs[1].const_value.numpy())
    return np.stack([rows @ weight for rows in rows_of(node_, value)])


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_patches_times_the_weight_are_the_convolution(data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 3))
    group, inputs, outputs = data.draw(st.sampled_from([(1, 3, 4), (2, 2, 3), (4, 1, 2), (3, 1, 1)]))
    kernel = [data.draw(st.integers(1, 3)) for _ in range(axes)]
    strides = [data.draw(st.integers(1, 3)) for _ in range(axes)]
    dilations = [data.draw(st.integers(1, 2)) for _ in range(axes)]
    sizes = [data.draw(st.integers(6, 9)) for _ in range(axes)]
    attributes = {"group": group, "strides": strides, "dilations": dilations}
    mode = data.draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if mode == "pads":
        attributes["pads"] = [data.draw(st.integers(0, 2)) for _ in range(2 * axes)]
    else:
        attributes["auto_pad"] = mode
        if mode != "VALID":
            attributes["dilations"] = [1] * axes  # not every runtime agrees on SAME with dilations
    graph = net(
        [node("Conv", "x w", "y", **attributes)],
        {"x": [2, group * inputs, *sizes]},
        ["y"],
        {"w": normal(group * outputs, inputs, *kernel)},
    )
    (sample,) = samples_for(graph, 1)
    expected = run(graph, sample)["y"]
    found = product(layer(graph, "y"), sample["x"])
    count = int(np.prod(expected.shape[2:]))
    # of more than 256 places the same random ones are taken, in order
    taken = np.sort(np.random.default_rng(0).permutation(count)[:256]) if count > 256 else np.arange(count)
    np.testing.assert_allclose(
        found.transpose(0, 1, 3, 2).reshape(2, group * outputs, len(taken)),
        expected.reshape(2, -1, count)[:, :, taken],
        atol=1e-4,
    )


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"transA": 1}, {"transA": 1, "transB": 1}])
def test_rows_times_the_weight_are_the_matrix_product(attributes: dict[str, int]) -> None:
    shape = [12, 5] if attributes.get("transA") else [5, 12]
    weight = normal(7, 12) if attributes.get("transB") else normal(12, 7)
    graph = net([node("Gemm", "x w", "y", **attributes)], {"x": shape}, ["y"], {"w": weight})
    (sample,) = samples_for(graph, 1)
    gemm = layer(graph, "y")
    np.testing.assert_allclose(product(gemm, sample["x"])[0, 0], run(graph, sample)["y"], atol=1e-5)
    assert matrix_shape(gemm) == (1, 12, 7)
    np.testing.assert_array_equal(from_matrices(gemm, to_matrices(gemm, weight)), weight)


def test_moments_are_the_sums_in_float64() -> None:
    graph = attention_net()
    samples = samples_for(graph, 6, batch=3)
    found = moments_of(graph, ["q", "k", "v", "projected"], samples)
    assert found["q"] is found["k"] is found["v"] and found["q"] is not found["projected"]
    rows = np.concatenate([s["x"].reshape(-1, 16) for s in samples]).astype(np.float64)
    moments = found["q"]
    assert moments.rows == 72 and moments.second.dtype == np.float64
    np.testing.assert_allclose(moments.second[0], rows.T @ rows, atol=1e-5 * (rows**2).sum(axis=0).max())
    np.testing.assert_allclose(moments.mean[0], np.abs(rows).mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(moments.largest[0], np.abs(rows).max(axis=0).astype(np.float32))


@pytest.mark.parametrize("make", [conv_net, attention_net])
def test_batches_and_memory_change_nothing(make) -> None:
    graph = make()
    names = [str(n.name) for n in graph.model.graph if refusal(n) is None]
    (whole,) = samples_for(graph, 1, batch=8)
    single = [{"x": whole["x"][i : i + 1]} for i in range(8)]
    one = moments_of(graph, names, [whole])
    for found in (moments_of(graph, names, single), moments_of(graph, names, single, memory=1)):
        assert sorted(found) == sorted(one) == sorted(names)
        for name in names:
            scale = np.abs(one[name].second).max()
            np.testing.assert_allclose(found[name].second, one[name].second, atol=2e-6 * scale)
            np.testing.assert_allclose(found[name].largest, one[name].largest, rtol=1e-5)
            assert found[name].rows == one[name].rows


def test_memory_is_bounded_by_several_passes() -> None:
    class Counted(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    graph = conv_net()
    samples = Counted(samples_for(graph, 3))
    moments_of(graph, ["conv1", "conv2", "y"], samples)
    assert samples.passes == 2  # one looks at the first sample
    moments_of(graph, ["conv1", "conv2", "y"], samples, memory=1)
    assert samples.passes == 2 + 4


def test_many_rows_are_thinned_the_same_way_in_any_batch() -> None:
    graph = net([node("Conv", "x w", "y")], {"x": ["batch", 1, 64, 64]}, ["y"], {"w": normal(2, 1, 1, 1)})
    (whole,) = samples_for(graph, 1, batch=3)
    moments = moments_of(graph, ["y"], [whole])["y"]
    assert moments.rows == 3 * 256
    singles = moments_of(graph, ["y"], [{"x": row[None]} for row in whole["x"]])["y"]
    np.testing.assert_allclose(singles.second, moments.second, rtol=1e-6)
    # the thinned mean of squares is near the whole one: 256 of 4096 positions of three pictures
    assert moments.second[0, 0, 0] / moments.rows == pytest.approx((whole["x"] ** 2).mean(), rel=0.1)


def test_what_has_no_moments() -> None:
    graph = attention_net()
    with pytest.raises(CalibrationError, match="qk has no moments: its second input is computed"):
        moments_of(graph, ["qk"], samples_for(graph, 1))
    with pytest.raises(CalibrationError, match="no samples"):
        moments_of(graph, ["q"], [])
    broken = [{"x": np.full((1, 4, 16), np.nan, np.float32)}]
    with pytest.raises(CalibrationError, match="q reads values that are not finite"):
        moments_of(graph, ["q"], broken)
