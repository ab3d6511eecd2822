"""FP16 and BF16 with float32 islands where the low format would break the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from engines import rtx_engine
from nets import Array, attention_net, conv_net, net, node, normal, op_types, ranges_of, residual_net, run, samples_for
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgebig.build import Profile
from edgebig.calibrate import Ranges
from edgebig.graph import Graph
from edgebig.graph.passes import RaiseOpset, run_passes
from edgebig.quantize import insert_qdq, lower_floats, make_plan
from edgebig.quantize.lower import cast_array
from edgebig.recipe import Recipe
from edgebig.target import Target

FP16, BF16 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16


def reference(graph: Graph, sample: dict[str, Array]) -> Array:
    """``y`` by ONNX's reference in true FP16; ONNX Runtime computes FP16 in float32 where it has no kernel."""
    with np.errstate(all="ignore"):
        (y,) = ReferenceEvaluator(ir.to_proto(graph.model)).run(["y"], sample)
    return np.asarray(y)


def rms_norm(eps: float = 1e-6) -> Graph:
    """T5's norm: x / sqrt(mean(x²) + eps) * gain, and a matrix product."""
    return net(
        [
            node("Pow", "x two", "square"),
            node("ReduceMean", "square axes", "mean"),
            node("Add", "mean eps", "shifted"),
            node("Sqrt", "shifted", "root"),
            node("Div", "x root", "norm"),
            node("Mul", "norm gain", "scaled"),
            node("MatMul", "scaled w", "y"),
        ],
        {"x": ["batch", 4, 16]},
        ["y"],
        {
            "two": np.array(2, np.float32),
            "axes": np.array([-1]),
            "eps": np.array(eps, np.float32),
            "gain": normal(16),
            "w": normal(16, 16),
        },
    )


def test_a_square_that_overflows_stays_float32() -> None:
    graph, blind = rms_norm(), rms_norm()
    samples = [{"x": s["x"] * np.float32(1000)} for s in samples_for(graph, 4)]
    expected = run(graph, samples[0])["y"]
    ranges = ranges_of(graph, samples)
    assert 1e6 < ranges.by_tensor["square"].max < 1e8
    done, kept = lower_floats(graph, FP16, ranges)
    assert [line.split(" ")[0] for line in kept] == ["square", "mean", "shifted", "root"]
    assert kept[0].startswith("square (Pow): square reaches") and done[0] == "3 of 7 nodes in FLOAT16"
    found = reference(graph, samples[0])
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()
    assert lower_floats(blind, FP16, None) == (["7 of 7 nodes in FLOAT16", "2 casts"], [])
    assert not np.abs(reference(blind, samples[0]) - expected).max() < 0.5 * np.abs(expected).max()


def feed_forward() -> Graph:
    """T5's gated feed-forward layer with its residual and the next norm, which brings the values back.

    The two gates reach some hundreds and their product 1e5, as in T5's last encoder layers.
    """
    return net(
        [
            node("MatMul", "x w0", "gate"),
            node("Relu", "gate", "open"),
            node("MatMul", "x w1", "line"),
            node("Mul", "open line", "gated"),
            node("MatMul", "gated wo", "out"),
            node("Add", "x out", "stream"),
            node("Pow", "stream two", "square"),
            node("ReduceMean", "square axes", "mean"),
            node("Add", "mean eps", "shifted"),
            node("Sqrt", "shifted", "root"),
            node("Div", "stream root", "y"),
        ],
        {"x": ["batch", 4, 16]},
        ["y"],
        {
            "w0": normal(16, 32, scale=60),
            "w1": normal(16, 32, seed=1, scale=60),
            "wo": normal(32, 16, seed=2),
            "two": np.array(2, np.float32),
            "axes": np.array([-1]),
            "eps": np.array(1e-6, np.float32),
        },
    )


def test_t5s_feed_forward_layer_that_overflows_stays_float32() -> None:
    graph, blind = feed_forward(), feed_forward()
    samples = samples_for(graph, 4)
    expected = run(graph, samples[0])["y"]
    ranges = ranges_of(graph, samples)
    assert ranges.by_tensor["gate"].magnitude < 2000 and ranges.by_tensor["gated"].magnitude > 1e5
    _, kept = lower_floats(graph, FP16, ranges)
    names = [line.split(" ")[0] for line in kept]
    assert names == ["gated", "out", "stream", "square", "mean", "shifted", "root", "y"]
    assert kept[0].startswith("gated (Mul): gated reaches")
    found = reference(graph, samples[0])
    assert np.isfinite(found).all() and np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()
    assert lower_floats(blind, FP16, None)[1] == []
    assert not np.isfinite(reference(blind, samples[0])).all()


def test_the_variance_of_a_layer_norm_that_overflows_stays_float32() -> None:
    """Values of a thousand fit into FP16, their squares do not."""
    graph, blind = layer_norm(1e-5), layer_norm(1e-5)
    samples = [{"x": s["x"] * np.float32(1000)} for s in samples_for(graph, 4)]
    expected = run(graph, samples[0])["y"]
    _, kept = lower_floats(graph, FP16, ranges_of(graph, samples))
    assert [line.split(" ")[0] for line in kept] == ["square", "variance", "shifted", "deviation"]
    found = reference(graph, samples[0])
    assert np.abs(found - expected).max() < 3e-3 * np.abs(expected).max()
    lower_floats(blind, FP16, None)
    # a variance without end makes zeros of all
    assert np.abs(expected).max() > 1 and not np.abs(reference(blind, samples[0])).max() > 1e-3


def test_a_layer_norm_whose_input_fp16_cannot_hold_stays_float32() -> None:
    """The operator itself keeps its statistics in float32, what it reads must fit: a residual stream of 1e5."""

    def stream() -> Graph:
        return net(
            [
                node("MatMul", "x w", "m"),
                node("Mul", "m large", "stream"),
                node("LayerNormalization", "stream gain offset", "n"),
                node("MatMul", "n w", "y"),
            ],
            {"x": ["batch", 16]},
            ["y"],
            {
                "w": normal(16, 16),
                "large": np.array(2e4, np.float32),
                "gain": normal(16, seed=1),
                "offset": normal(16, seed=2),
            },
        )

    graph, blind = stream(), stream()
    samples = samples_for(graph, 4)
    expected = run(graph, samples[0])["y"]
    ranges = ranges_of(graph, samples)
    assert ranges.by_tensor["stream"].magnitude > 65504
    _, kept = lower_floats(graph, FP16, ranges)
    assert [line.split(" ")[0] for line in kept] == ["stream", "n"]
    found = reference(graph, samples[0])
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()
    lower_floats(blind, FP16, None)
    assert not np.isfinite(reference(blind, samples[0])).all()


def layer_norm(eps: float) -> Graph:
    return net(
        [
            node("ReduceMean", "x axes", "mean"),
            node("Sub", "x mean", "centred"),
            node("Mul", "centred centred", "square"),
            node("ReduceMean", "square axes", "variance"),
            node("Add", "variance eps", "shifted"),
            node("Sqrt", "shifted", "deviation"),
            node("Div", "centred deviation", "y"),
        ],
        {"x": ["batch", 16]},
        ["y"],
        {"axes": np.array([-1]), "eps": np.array(eps, np.float32)},
    )


@pytest.mark.parametrize(("eps", "islands"), [(1e-12, 2), (1e-8, 2), (1e-5, 0)])
def test_a_tiny_epsilon_still_protects_constant_rows(eps: float, islands: int) -> None:
    graph = layer_norm(eps)
    sample = {"x": np.stack([np.full(16, 3), np.arange(16)]).astype(np.float32)}
    expected = run(graph, sample)["y"]
    _, kept = lower_floats(graph, FP16, ranges_of(graph, [sample]))
    assert len(kept) == islands and all("which FP16 rounds to zero" in line for line in kept)
    found = reference(graph, sample)
    assert np.isfinite(found).all() and not found[0].any()
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("make", [conv_net, residual_net, attention_net])
def test_fp16_is_near_and_the_face_stays(make) -> None:
    graph = make()
    faces = (graph.inputs, graph.outputs)
    samples = samples_for(graph, 4)
    expected = run(graph, samples[0])["y"]
    done, kept = lower_floats(graph, FP16, ranges_of(graph, samples))
    assert kept == [] and (graph.inputs, graph.outputs) == faces and f"{len(done)}" == "2"
    assert op_types(graph).count("Cast") == 2
    assert all(v.dtype == FP16 for v in graph.model.graph.initializers.values() if v.dtype.is_floating_point())
    found = run(graph, samples[0])["y"]
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()


def test_scales_of_a_resize_stay_float32() -> None:
    graph = net(
        [node("Relu", "x", "r"), node("Resize", "r - scales", "y", mode="nearest")],
        {"x": [1, 2, 4, 4]},
        ["y"],
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    )
    _, kept = lower_floats(graph, FP16, None)
    assert kept == [] and op_types(graph) == ["Cast", "Relu", "Resize", "Cast"]
    (resize,) = (n for n in graph.model.graph if n.op_type == "Resize")
    assert [v.dtype for v in (resize.inputs[0], resize.inputs[2])] == [FP16, ir.DataType.FLOAT]
    assert run(graph, samples_for(graph, 1)[0])["y"].shape == (1, 2, 8, 8)


def test_branches_of_an_if_stay_float32() -> None:
    def branch(op: str) -> object:
        return helper.make_graph(
            [node(op, "r", op)], op, [], [helper.make_tensor_value_info(op, TensorProto.FLOAT, [2, 4])]
        )

    graph = net(
        [
            node("Relu", "x", "r"),
            node("If", "flag", "i", then_branch=branch("Exp"), else_branch=branch("Neg")),
            node("Mul", "i two", "y"),
        ],
        {"x": [2, 4], "flag": []},
        ["y"],
        {"two": np.array(2, np.float32)},
        types={"flag": "bool"},
    )
    samples = [{"x": normal(2, 4), "flag": np.array(flag)} for flag in (True, False)]
    expected = [run(graph, s)["y"] for s in samples]
    _, kept = lower_floats(graph, FP16, None)
    assert kept == ["i (If): If holds subgraphs"]
    assert op_types(graph) == ["Cast", "Relu", "Cast", "If", "Cast", "Mul", "Cast"]
    for sample, value in zip(samples, expected, strict=True):
        np.testing.assert_allclose(run(graph, sample)["y"], value, rtol=2e-3)


def test_outputs_that_are_inputs_of_other_nodes_or_of_the_model() -> None:
    graph = net(
        [node("Identity", "x", "a"), node("Relu", "x", "r"), node("Neg", "r", "y")], {"x": [2, 4]}, ["a", "r", "y"]
    )
    sample = {"x": normal(2, 4)}
    expected, outputs = run(graph, sample), graph.outputs
    lower_floats(graph, FP16, None)
    assert graph.outputs == outputs
    for name, value in run(graph, sample).items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, expected[name], rtol=1e-3)


def test_pairs_whose_scales_fp16_cannot_hold_stay_float32() -> None:
    graph = net([node("MatMul", "x w", "y")], {"x": [2, 16]}, ["y"], {"w": normal(16, 16, scale=1e-5)})
    samples = [{"x": s["x"] * np.float32(1e-5)} for s in samples_for(graph, 4)]
    expected = run(graph, samples[0])["y"].astype(np.float64)
    ranges = ranges_of(graph, samples)
    insert_qdq(graph, make_plan(graph, ranges, Target.load("l4"), Recipe(), "int8"))
    _, kept = lower_floats(graph, FP16, ranges)
    assert [line.split(" ")[0] for line in kept] == ["x/quantize", "x/dequantize/0", "w/y/dequantize", "y"]
    assert all("too small for FP16" in line for line in kept)
    dtypes = {n.inputs[1].dtype for n in graph.model.graph if n.op_type in {"QuantizeLinear", "DequantizeLinear"}}
    assert dtypes == {ir.DataType.FLOAT}
    error = run(graph, samples[0])["y"] - expected
    assert 10 * np.log10((expected**2).sum() / (error**2).sum()) > 25


def test_a_layer_stays_float32_as_a_whole() -> None:
    """The scale of one channel of the weight is too small for FP16, that of the input is not."""
    weight = normal(16, 16)
    weight[:, 3] *= 1e-5
    nodes = [
        node("MatMul", "x w", "a"),
        node("MatMul", "x v", "b"),
        node("Add", "a b", "s"),
        node("MatMul", "s v", "y"),
    ]
    graph = net(nodes, {"x": [2, 16]}, ["y"], {"w": weight, "v": normal(16, 16, seed=1)})
    samples = samples_for(graph, 4)
    expected = run(graph, samples[0])["y"]
    ranges = ranges_of(graph, samples)
    insert_qdq(graph, make_plan(graph, ranges, Target.load("l4"), Recipe(), "int8"))
    _, kept = lower_floats(graph, FP16, ranges)
    # x has one pair, which both of its readers share; the last layer has nothing to do with it
    names = {line.split(" ")[0] for line in kept}
    assert names >= {"w/a/dequantize", "a", "x/quantize", "x/dequantize/0", "b", "x/dequantize/1", "v/b/dequantize"}
    assert not {"y", "s/quantize", "v/y/dequantize"} & names
    assert sum("of a pair around the same layer: its scale" in line for line in kept) == len(kept) - 1
    assert np.corrcoef(run(graph, samples[0])["y"].ravel(), expected.ravel())[0, 1] > 0.999


def test_the_builder_takes_a_layer_whose_input_has_a_tiny_scale(tmp_path: Path) -> None:
    """As DETR's last layers with random weights: TensorRT-RTX fails on FP32 and FP16 scales in one product."""
    pytest.importorskip("tensorrt_rtx_bindings")
    nodes = [node("MatMul", "x w", "a"), node("Add", "a b", "s"), node("Relu", "s", "r")]
    nodes += [node("MatMul", "r v", "c"), node("Add", "c d", "e"), node("Sigmoid", "e", "y")]
    weights = {"w": normal(32, 32, scale=1e-5), "b": normal(32, scale=1e-5), "v": normal(32, 4, seed=2), "d": normal(4)}
    graph = net(nodes, {"x": [1, 6, 32]}, ["y"], weights)
    ranges = ranges_of(graph, samples_for(graph, 4))
    insert_qdq(graph, make_plan(graph, ranges, Target.load("l4"), Recipe(), "int8"))
    lower_floats(graph, FP16, ranges)
    graph.save(tmp_path / "m.onnx")
    assert len(rtx_engine(tmp_path / "m.onnx", "8.9")) > 1000


def test_a_value_near_the_limit_is_an_island_and_an_infinite_one_is_not() -> None:
    graph = net([node("Exp", "x", "e"), node("Log", "e", "l"), node("Tanh", "l", "y")], {"x": [2]}, ["y"])
    ranges = ranges_of(graph, [{"x": np.array([0, 10.5], np.float32)}])  # e^10.5 is 36 316, over half of 65 504
    _, kept = lower_floats(graph.clone(), FP16, ranges)
    assert [line.split(" ")[0] for line in kept] == ["e", "l"]
    below = Ranges({**ranges.by_tensor, "e": ranges.by_tensor["x"]}, 1, "min-max", "")
    assert lower_floats(graph, FP16, below)[1] == []


def test_constants_saturate_and_infinities_stay() -> None:
    values = np.array([1e6, -1e6, np.inf, -np.inf, 1 / 3, np.nan], np.float32)
    found = cast_array(values, FP16)
    np.testing.assert_array_equal(found, np.array([65504, -65504, np.inf, -np.inf, 1 / 3, np.nan], np.float16))


@pytest.mark.parametrize("make", [conv_net, residual_net, attention_net])
def test_the_builder_takes_bf16(make, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    graph = make()
    run_passes(graph, [RaiseOpset(22)])
    _, kept = lower_floats(graph, BF16, None)
    assert kept == []
    assert {v.dtype for v in graph.model.graph.initializers.values() if v.dtype.is_floating_point()} == {BF16}
    assert {s.dtype for s in (*graph.inputs, *graph.outputs)} == {"float32"}
    graph.save(tmp_path / "model.onnx")
    one = (1, *graph.inputs[0].shape[1:])
    assert len(rtx_engine(tmp_path / "model.onnx", "8.9", {"x": Profile(one, one, one)})) > 10_000


def test_bf16_below_the_opset_that_knows_it_stays_float32() -> None:
    _, kept = lower_floats(residual_net(), BF16, None)
    assert [line.split(":")[1] for line in kept] == [" ONNX has no BFLOAT16 Conv at this opset"] * 3


def test_reference_runs_of_quantized_fp16_need_the_level_off(shared_data: Path) -> None:
    """ONNX Runtime 1.32 drops a Relu before a symmetric Q of FP16 at ``basic``; only ``off`` is held to be right."""
    from edgebig.graph.passes import FoldConstants, NameNodes, RaiseToFloat32
    from edgebig.tasks.vision import prepare

    how = Recipe.load("imagenet-caffe").preprocess
    assert how is not None
    graph = Graph.load(shared_data / "squeezenet" / "squeezenet1.1_fp32.onnx")
    name, output = graph.inputs[0].name, graph.outputs[0].name
    run_passes(graph, [RaiseOpset(19), RaiseToFloat32(), FoldConstants(), NameNodes()])
    samples = [
        {name: prepare(shared_data / "images" / f"{p}.jpg", how)} for p in ("cat_0", "city_0", "orange_0", "snow")
    ]
    expected = run(graph, samples[0], "basic")[output].astype(np.float64).ravel()
    ranges = ranges_of(graph, samples)
    insert_qdq(graph, make_plan(graph, ranges, Target.load("l4"), Recipe(), "int8"))
    lower_floats(graph, FP16, ranges)
    found = run(graph, samples[0], "off")[output].astype(np.float64).ravel()
    assert expected @ found / np.linalg.norm(expected) / np.linalg.norm(found) > 0.99
