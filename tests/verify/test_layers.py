"""The layer that was ruined is the one that is named, by its own noise and by its share."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from broken import quantized, ruined
from nets import attention_net, conv_net, net, node, normal, residual_net, samples_for

from edgebig.build import optimize_for_cpu
from edgebig.graph import Graph
from edgebig.quantize import lower_floats
from edgebig.verify import compare_layers, expose_quantized, first_jump, outputs_of
from edgebig.verify.subgraph import with_outputs
from edgebig.verify.tally import Tally

WEIGHTS = {"conv1": "w1", "conv2": "w2", "y": "w3"}


@pytest.mark.parametrize("target", ["cpu", "l4"])
@pytest.mark.parametrize("name", ["conv1", "conv2", "y"])
def test_the_ruined_layer_is_named(target: str, name: str) -> None:
    graph = conv_net()
    samples = samples_for(graph, 3)
    healthy = quantized(graph, samples, target)
    layers = {x.name: x for x in compare_layers(graph, healthy, samples)}
    worse = compare_layers(graph, ruined(healthy, WEIGHTS[name], 1.8), samples)
    jump = first_jump(worse)
    assert jump is not None and jump.name == name and jump.share is not None and jump.share > 0.9
    for layer in worse:
        if layer.name == name:
            assert layer.own.sqnr_db < 5 < 20 < layers[name].own.sqnr_db
        else:  # what comes after is wrong too, but not by its own doing
            assert layer.own == layers[layer.name].own
    after = [x for x in worse if x.name == "y"]
    assert after[0].error.sqnr_db < 12
    assert sum(x.share or 0 for x in worse) == pytest.approx(1)


def test_equal_graphs_have_no_jump() -> None:
    graph = conv_net()
    layers = compare_layers(graph, graph.clone(), samples_for(graph, 2))
    assert [x.name for x in layers] == [n.name for n in graph.model.graph]
    assert all(x.error.sqnr_db == x.own.sqnr_db == math.inf and x.share == 0 for x in layers)
    assert first_jump(layers) is None and first_jump([]) is None


def test_figures_do_not_depend_on_the_memory() -> None:
    graph = residual_net()
    samples = samples_for(graph, 2)
    lowered = quantized(graph, samples)
    whole, pieces = (compare_layers(graph, lowered, samples, memory=m) for m in (1 << 30, 1))
    assert whole == pieces


def test_own_noise_is_that_of_one_layer_alone() -> None:
    """Against the definition: a network in which only that layer is quantized."""
    graph = residual_net()
    samples = samples_for(graph, 2)
    full = ruined(quantized(graph, samples, "l4"), "w2", 1.5)
    (own,) = [x.own for x in compare_layers(graph, full, samples) if x.name == "conv2"]
    alone = graph.clone()
    made = {str(n.name): n for n in full.model.graph}
    read = [v.producer() for v in made["conv2"].inputs[:2] if v is not None]
    scales = [p.inputs[1].const_value.numpy() for p in read]
    weight = graph.model.graph.initializers["w2"].const_value.numpy()
    steps = scales[1].reshape(-1, 1, 1, 1)
    # the ruined scale belongs to values that were quantized with the good one
    values = np.clip(np.rint(weight / (steps / np.float32(1.5))), -127, 127) * steps
    alone.model.graph.initializers["w2"].const_value = ir.tensor(values.astype(np.float32))
    rounded = net(
        [node("QuantizeLinear", "relu1 s z", "q"), node("DequantizeLinear", "q s z", "d")],
        {"relu1": ["batch", 8, 8, 8]},
        ["d"],
        {"s": np.float32(scales[0]), "z": np.int8(0)},
    )
    conv = net(
        [node("Conv", "d w b", "conv2", pads=[1, 1, 1, 1])],
        {"d": ["batch", 8, 8, 8]},
        ["conv2"],
        {"w": values.astype(np.float32), "b": graph.model.graph.initializers["b2"].const_value.numpy()},
    )
    tally = Tally()
    for exact in outputs_of(with_outputs(graph, ["relu1", "conv2"]), samples, "off"):
        (d,) = outputs_of(rounded, [{"relu1": exact["relu1"]}], "off")
        (found,) = outputs_of(conv, [d], "off")
        tally.add(exact["conv2"], found["conv2"])
    assert own.sqnr_db == pytest.approx(tally.sqnr_db, abs=0.01)


def test_fp16_overflow_names_the_first_node() -> None:
    graph = net(
        [
            node("MatMul", "x w", "small"),
            node("Mul", "small big", "large"),
            node("Mul", "large tiny", "back"),
            node("Add", "back x", "y"),
        ],
        {"x": ["n", 8]},
        ["y"],
        {"w": normal(8, 8), "big": np.array(60000, np.float32), "tiny": np.array(1e-4, np.float32)},
    )
    lowered = graph.clone()
    lower_floats(lowered, ir.DataType.FLOAT16, None)
    layers = compare_layers(graph, lowered, samples_for(graph, 2))
    jump = first_jump(layers)
    assert jump is not None and jump.name == "large" and jump.is_broken and jump.format == "float16"
    assert not next(x for x in layers if x.name == "small").is_broken


def test_masks_of_other_constants_are_no_error() -> None:
    graph = attention_net(float(np.finfo(np.float32).min))
    lowered = graph.clone()
    mask = lowered.model.graph.initializers["mask"]
    assert mask.const_value is not None
    mask.const_value = ir.tensor(np.maximum(mask.const_value.numpy(), -30000))
    layers = compare_layers(graph, lowered, samples_for(graph, 2))
    assert first_jump(layers) is None


def test_the_built_graph_is_compared_through_its_integer_operators(tmp_path: Path) -> None:
    graph = conv_net()
    samples = samples_for(graph, 3)
    broken = ruined(quantized(graph, samples), "w2", 1.8)
    broken.save(tmp_path / "plain.onnx")
    optimize_for_cpu(tmp_path / "plain.onnx", tmp_path / "built.onnx")
    built = Graph.load(tmp_path / "built.onnx")
    assert "QLinearConv" in {n.op_type for n in built.model.graph}
    exposed = expose_quantized(built, [str(v.name) for n in graph.model.graph for v in n.outputs])
    for a, b in zip(outputs_of(built, samples, "off"), outputs_of(exposed, samples, "off"), strict=True):
        np.testing.assert_array_equal(a["y"], b["y"])
    layers = compare_layers(graph, exposed, samples)
    jump = first_jump(layers)
    assert jump is not None and (jump.name, jump.format) == ("conv2", "uint8 x int8")
    # the first convolution's own output is gone, and what is left of both is called by it
    assert (layers[0].name, layers[0].tensor) == ("conv1", "relu")


def test_formats_of_layers() -> None:
    graph = conv_net()
    samples = samples_for(graph, 2)
    found = {x.name: x.format for x in compare_layers(graph, quantized(graph, samples), samples, shares=False)}
    assert found["conv1"] == found["y"] == "uint8 x int8" and found["relu"] == "float32"
