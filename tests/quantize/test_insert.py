"""The graph that carries out a plan: where pairs lie, what they hold, and that the model's face stays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import conv_net, net, node, normal, op_types, ranges_of, residual_net, run, samples_for

from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.quantize import Plan, insert_qdq, make_plan
from edgebig.quantize.formats import INT8
from edgebig.quantize.plan import WeightChoice
from edgebig.recipe import Recipe
from edgebig.target import Target


def quantized(graph: Graph, target: str, count: int = 8) -> Plan:
    """Quantizes the graph in place with ranges of random samples."""
    plan = make_plan(graph, ranges_of(graph, samples_for(graph, count)), Target.load(target), Recipe(), "int8")
    insert_qdq(graph, plan)
    return plan


@pytest.mark.parametrize("target", ["cpu", "cpu-arm64", "l4"])
def test_the_face_of_the_model_stays_and_the_answer_is_near(target: str) -> None:
    for make in (conv_net, residual_net):
        graph = make()
        before = (graph.inputs, graph.outputs)
        samples = samples_for(graph, 8, seed=9)
        expected = np.stack([run(graph, s)["y"] for s in samples]).astype(np.float64)
        quantized(graph, target, 16)
        assert (graph.inputs, graph.outputs) == before
        found = np.stack([run(graph, s)["y"] for s in samples])
        sqnr = 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum())
        assert sqnr > (20 if target == "cpu" else 25), make.__name__


def test_an_empty_plan_changes_nothing() -> None:
    graph = conv_net()
    before = ir.to_proto(graph.model).SerializeToString()
    insert_qdq(graph, Plan())
    assert ir.to_proto(graph.model).SerializeToString() == before


def test_a_clone_keeps_its_float_weights() -> None:
    graph = conv_net()
    clone = graph.clone()
    quantized(graph, "l4")
    assert "QuantizeLinear" not in op_types(clone)
    assert constant(clone.model.graph.initializers["w1"]).dtype == ir.DataType.FLOAT
    assert "w1" not in graph.model.graph.initializers  # the float weight is gone, and its memory


def test_each_reader_has_a_dequantize_of_its_own() -> None:
    graph = residual_net()
    quantized(graph, "l4")
    (pair,) = (n for n in graph.model.graph if n.name == "x/quantize")
    readers = [reader for reader, _ in pair.outputs[0].uses()]
    assert sorted(str(r.name) for r in readers) == ["x/dequantize/0", "x/dequantize/1"]
    assert sorted(str(n.name) for r in readers for n, _ in r.outputs[0].uses()) == ["add", "conv1"]


def test_an_integer_bias_has_the_scale_of_input_times_weight() -> None:
    graph = conv_net()
    bias, weight = (constant(graph.model.graph.initializers[k]).numpy().copy() for k in ("b1", "w1"))
    plan = quantized(graph, "cpu-arm64")
    (conv,) = (n for n in graph.model.graph if n.name == "conv1")
    integers, scale, zero = (constant(v).numpy() for v in conv.inputs[2].producer().inputs)
    expected = plan.activations["x"].scale * np.abs(weight).max(axis=(1, 2, 3)) / 127
    np.testing.assert_allclose(scale, expected, rtol=1e-5)
    assert integers.dtype == np.int32 and not zero.any()
    np.testing.assert_allclose(integers * scale, bias, atol=float(scale.max()) / 2)


def test_weights_are_the_nearest_integers() -> None:
    graph = net([node("MatMul", "x w", "y")], {"x": [2, 16]}, ["y"], {"w": normal(16, 8)})
    insert_qdq(graph, Plan(weights=[WeightChoice("y", 1, INT8, 1)]))
    (dequantize,) = (n for n in graph.model.graph if n.op_type == "DequantizeLinear")
    integers, scale, _ = (constant(v).numpy() for v in dequantize.inputs)
    assert integers.dtype == np.int8 and scale.shape == (8,) and dequantize.attributes.get_int("axis") == 1
    assert (np.abs(integers).max(axis=0) == 127).all()
    assert (np.abs(integers * scale - normal(16, 8)) <= scale / 2 * (1 + 1e-5)).all()


def test_names_that_the_model_uses_already() -> None:
    graph = net(
        [
            node("Mul", "x x/scale", "m"),
            node("MatMul", "m w", "a"),
            node("MatMul", "x w", "b"),
            node("Add", "a b", "y"),
        ],
        {"x": [2, 16]},
        ["y"],
        {"x/scale": np.array(7, np.float32), "w": normal(16, 16)},
    )
    samples = samples_for(graph, 4)
    expected = run(graph, samples[0])["y"]
    quantized(graph, "l4", 4)
    assert np.abs(run(graph, samples[0])["y"] - expected).max() < 0.03 * np.abs(expected).max()
