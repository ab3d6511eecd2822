"""Pieces compute what the whole computes there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from broken import quantized
from nets import attention_net, conv_net, net, node, normal, residual_net, run, samples_for

from edgebig.graph import Executor, Graph
from edgebig.graph.check import check_graph
from edgebig.quantize import lower_floats
from edgebig.verify.subgraph import cut, shared_tensors, with_float_inputs, with_outputs


@pytest.mark.parametrize("make", [conv_net, residual_net, attention_net])
def test_every_cut_computes_the_same(make) -> None:
    graph: Graph = make()
    (sample,) = samples_for(graph, 1)
    names = shared_tensors(graph, graph)
    assert names == [str(n.outputs[0].name) for n in graph.model.graph]
    values = run(with_outputs(graph, names), sample)
    for count in range(len(names) + 1):
        piece = cut(graph, names[:count], names)
        check_graph(piece.graph, "the cut")
        found = run(piece.graph, {**sample, **values})
        for name in names:
            np.testing.assert_allclose(found[piece.outputs[name]], values[name], rtol=1e-5, atol=1e-5)


def test_a_piece_holds_and_takes_only_what_it_needs() -> None:
    piece = cut(residual_net(), ["relu1"], ["conv2"])
    assert piece.nodes == ("conv2",) and [s.name for s in piece.graph.inputs] == ["relu1"]
    assert set(piece.graph.model.graph.initializers) == {"w2", "b2"}
    assert piece.outputs == {"conv2": "conv2"}


def test_quantized_graphs_share_the_float_tensors() -> None:
    graph = conv_net()
    lowered = quantized(graph, samples_for(graph, 1))
    assert shared_tensors(graph, lowered) == [str(n.outputs[0].name) for n in graph.model.graph]
    assert shared_tensors(lowered, graph) == shared_tensors(graph, lowered)


def test_pieces_of_fp16_graphs_take_float32() -> None:
    graph = residual_net()
    lowered = graph.clone()
    lower_floats(lowered, ir.DataType.FLOAT16, None)
    piece = cut(lowered, ["relu1"], ["conv2"])
    assert [(s.name, s.dtype) for s in piece.graph.inputs] == [("relu1", "float32")]
    assert piece.nodes == ("conv2",)


def test_inputs_in_fp16_become_float32() -> None:
    graph = net([node("Mul", "x w", "y")], {"x": [4]}, ["y"], {"w": normal(4)})
    half = graph.clone()
    lower_floats(half, ir.DataType.FLOAT16, None)
    value = half.model.graph.inputs[0]
    value.type = ir.TensorType(ir.DataType.FLOAT16)
    for cast in [n for n, _ in value.uses()]:  # the cast of the input is needless now
        cast.outputs[0].replace_all_uses_with(value)
        half.model.graph.remove(cast, safe=True)
    assert half.inputs[0].dtype == "float16"
    wide = with_float_inputs(half)
    assert wide.inputs[0].dtype == "float32" and half.inputs[0].dtype == "float16"
    with Executor(wide, "off") as executor:
        found = executor.run({"x": np.arange(4, dtype=np.float32)})["y"]
    np.testing.assert_allclose(found, np.arange(4) * normal(4), rtol=2e-3)
