"""What a layer saves: measured here, and by a roofline that is computed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from nets import net, node, normal, samples_for

from edgebig.build import optimize_for_cpu
from edgebig.graph import Graph
from edgebig.graph.work import observed_shapes
from edgebig.quantize.search import cost, measured_gains, roofline_gains
from edgebig.target import Target

INTEGER_KERNELS = {"MatMulIntegerToFloat", "QLinearMatMul", "QLinearConv", "QGemm", "DynamicQuantizeMatMul"}
"""ONNX Runtime's operators that multiply integers."""


def kernels(graph: Graph, name: str, folder: Path) -> tuple[int, int]:
    """How many operators of ONNX Runtime's optimized graph multiply integers: the layer in float, and in INT8."""
    shapes = observed_shapes(graph, samples_for(graph, 1)[0])
    (layer,) = (n for n in graph.model.graph if n.name == name)
    ends = (shapes[str(layer.inputs[0].name)], shapes[str(layer.outputs[0].name)])
    pair = cost.layer_pair(graph, layer, *ends, Target.load("cpu"))
    assert pair is not None
    counts = []
    for index, made in enumerate(pair[:2]):
        made.save(folder / f"{index}.onnx")
        optimize_for_cpu(folder / f"{index}.onnx", folder / f"{index}.optimized.onnx")
        nodes = Graph.load(folder / f"{index}.optimized.onnx").nodes()
        counts.append(sum(n.op_type in INTEGER_KERNELS for n in nodes))
    return counts[0], counts[1]


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


def test_each_kind_is_timed_once_and_what_cannot_be_quantized_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = products()
    shapes = observed_shapes(graph, samples_for(graph, 1)[0])
    layers = ["a", "b", "computed", "g", "y"]
    timed, once = [], cost._timed
    monkeypatch.setattr(cost, "_timed", lambda graph, node, *more: timed.append(node.name) or once(graph, node, *more))
    gains = measured_gains(graph, layers, shapes, Target.load("cpu"))
    assert list(gains) == layers
    # how large a time is depends on what else runs here
    assert all(1e-9 <= gains[n] < 1 for n in ("a", "b", "g"))
    assert timed == ["a", "g"] and gains["a"] == gains["b"]  # one kind is timed once
    assert gains["computed"] == gains["y"] == 1e-9
    del shapes["x"]
    assert measured_gains(graph, ["a"], shapes, Target.load("cpu")) == {"a": 1e-9}


@pytest.mark.parametrize("name", ["a", "g"])
def test_a_product_is_timed_with_an_integer_kernel(name: str, tmp_path: Path) -> None:
    assert kernels(products(), name, tmp_path) == (0, 1)


def test_a_convolution_is_timed_with_its_output_quantized(tmp_path: Path) -> None:
    graph = net(
        [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "y")],
        {"x": [1, 64, 56, 56]},
        ["y"],
        {"w": normal(64, 64, 3, 3), "b": normal(64)},
    )
    assert kernels(graph, "c", tmp_path) == (0, 1)
    shapes = observed_shapes(graph, samples_for(graph, 1)[0])
    assert 1e-9 <= measured_gains(graph, ["c"], shapes, Target.load("cpu"))["c"] < 1


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


def test_what_tensorrt_does_not_have_saves_nothing() -> None:
    target = Target.load("l4")
    graph = net(
        [node("ConvTranspose", "x w", "up", kernel_shape=[4, 4], strides=[2, 2])],
        {"x": [1, 256, 64, 64]},
        ["up"],
        {"w": normal(256, 256, 4, 4)},
    )
    shapes = observed_shapes(graph, samples_for(graph, 1)[0])
    gains = roofline_gains(graph, ["up"], shapes, target, ["int8", "fp8", "int4"])["up"]
    assert gains["fp8"] == gains["int4"] == 1e-9 < gains["int8"]


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_of_a_recurrent_layer_only_the_weights_are_fewer_bytes(op: str, gates: int) -> None:
    target = Target.load("l4")
    bandwidth = target.bandwidth_gb_s * 1e9

    def gains(length: int) -> dict[str, float]:
        graph = net(
            [node(op, "x w r", "y", hidden_size=512)],
            {"x": [length, 1, 512]},
            ["y"],
            {"w": normal(1, gates * 512, 512), "r": normal(1, gates * 512, 512, seed=1)},
        )
        shapes = observed_shapes(graph, samples_for(graph, 1)[0])
        return roofline_gains(graph, ["y"], shapes, target, ["int8", "fp8", "int8-weights", "int4"])["y"]

    # one step is bound by its weights' bytes: FP16 takes one byte more for each; what goes in and out stays FP16
    short = gains(1)
    assert short["int8"] == short["fp8"] == short["int8-weights"] == pytest.approx(2 * gates * 512 * 512 / bandwidth)
    assert short["int4"] == 1e-9
    # 4096 steps are bound by arithmetic, which is no faster
    long = gains(4096)
    assert long["int8"] == long["fp8"] == 1e-9


def test_weights_alone_leave_the_activations_their_bytes() -> None:
    target = Target.load("rtx-5090")
    graph = net([node("MatMul", "x w", "y")], {"x": [1, 1024]}, ["y"], {"w": normal(1024, 1024)})
    shapes = observed_shapes(graph, samples_for(graph, 1)[0])
    gains = roofline_gains(graph, ["y"], shapes, target, ["int8-weights", "int4", "nvfp4"])["y"]
    bandwidth = target.bandwidth_gb_s * 1e9
    saved = {"int8-weights": 1.0, "int4": 1.5, "nvfp4": 2 - 0.5 - 1 / 16}
    for name, each in saved.items():
        assert gains[name] == pytest.approx(each * 1024 * 1024 / bandwidth)
