"""What a layer saves: measured here, and by a roofline that is computed by hand."""

from __future__ import annotations

import pytest
from nets import net, node, normal, samples_for

from edgebig.graph import Graph
from edgebig.graph.work import observed_shapes
from edgebig.quantize.search import measured_gains, roofline_gains
from edgebig.target import Target


def products() -> Graph:
    """x 64x512: two equal products, one by a computed matrix, one 512x512 with a bias and transposed."""
    return net(
        [
            node("MatMul", "x wa", "a"),
            node("MatMul", "a wb", "b"),
            node("Transpose", "x", "xt"),
            node("MatMul", "xt b", "computed"),
            node("Gemm", "b wg bg", "g", transB=1),
            node("MatMul", "g computed", "y"),
        ],
        {"x": [64, 512]},
        ["y"],
        {"wa": normal(512, 512), "wb": normal(512, 512, seed=1), "wg": normal(512, 512, seed=2), "bg": normal(512)},
    )


def test_a_large_product_gains_and_what_cannot_be_quantized_does_not() -> None:
    graph = products()
    shapes = observed_shapes(graph, samples_for(graph, 1)[0])
    layers = ["a", "b", "computed", "g", "y"]
    gains = measured_gains(graph, layers, shapes, Target.load("cpu"))
    assert list(gains) == layers
    # 17 million multiply-accumulates in float32 take a hundred microseconds and more
    assert all(1e-6 < gains[n] < 1 for n in ("a", "b", "g"))
    assert gains["a"] == gains["b"] != gains["g"]  # one kind is timed once
    assert gains["computed"] == gains["y"] == 1e-9
    del shapes["x"]
    assert measured_gains(graph, ["a"], shapes, Target.load("cpu")) == {"a": 1e-9}


def test_a_convolution_is_timed_with_its_output_quantized() -> None:
    graph = net(
        [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "y")],
        {"x": [1, 64, 56, 56]},
        ["y"],
        {"w": normal(64, 64, 3, 3), "b": normal(64)},
    )
    shapes = observed_shapes(graph, samples_for(graph, 1)[0])
    assert measured_gains(graph, ["c"], shapes, Target.load("cpu"))["c"] > 1e-5


def test_the_roofline_by_hand() -> None:
    target = Target.load("l4")
    fp16, int8, fp8 = (target.peak_tops[p] * 1e12 for p in ("fp16", "int8", "fp8"))
    bandwidth = target.bandwidth_gb_s * 1e9
    # 4096 rows are bound by arithmetic, 1 row by the weight's bytes
    for rows, bound in ((4096, "arithmetic"), (1, "traffic")):
        graph = net([node("MatMul", "x w", "y")], {"x": [rows, 1024]}, ["y"], {"w": normal(1024, 1024)})
        shapes = observed_shapes(graph, samples_for(graph, 1)[0])
        gains = roofline_gains(graph, ["y"], shapes, target, ["int8", "fp8", "int8-weights", "int4"])["y"]
        operations = 2 * rows * 1024 * 1024
        read, written = rows * 1024 + 1024 * 1024, rows * 1024

        def seconds(rate: float, width: float, work=operations, read=read, written=written) -> float:
            return max(work / rate, (read * width + written * 2) / bandwidth)

        float16 = seconds(fp16, 2)
        assert float16 == (operations / fp16 if bound == "arithmetic" else (2 * read + 2 * written) / bandwidth)
        assert gains["int8"] == pytest.approx(float16 - seconds(int8, 1))
        assert gains["fp8"] == pytest.approx(float16 - seconds(fp8, 1))
        if bound == "arithmetic":  # the product itself stays FP16
            assert gains["int8-weights"] == gains["int4"] == 1e-9
        else:
            assert gains["int4"] > gains["int8-weights"] > 1e-9


def test_a_format_without_a_rate_of_its_own_saves_bytes_alone() -> None:
    target = Target.load("t4")
    assert "fp8" not in target.peak_tops
    graph = net([node("MatMul", "x w", "y")], {"x": [4096, 1024]}, ["y"], {"w": normal(1024, 1024)})
    shapes = observed_shapes(graph, samples_for(graph, 1)[0])
    gains = roofline_gains(graph, ["y"], shapes, target, ["fp8", "int8"])["y"]
    assert gains["fp8"] == 1e-9 < gains["int8"]
