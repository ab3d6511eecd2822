"""Times of a built graph go to the layers that it was made from."""

from __future__ import annotations

from pathlib import Path

from broken import quantized
from nets import conv_net, samples_for

from edgebig.build import optimize_for_cpu
from edgebig.verify import layer_times


def test_fused_operators_count_for_their_layers(tmp_path: Path) -> None:
    graph = conv_net()
    samples = samples_for(graph, 2)
    quantized(graph, samples).save(tmp_path / "plain.onnx")
    optimize_for_cpu(tmp_path / "plain.onnx", tmp_path / "built.onnx")
    times = layer_times(tmp_path / "built.onnx", graph, samples)
    assert {"conv1", "pool", "conv2", "y"} <= set(times)
    assert set(times) <= {"", *(str(n.name) for n in graph.model.graph)}
    assert all(0 <= seconds < 1 for seconds in times.values()) and sum(times.values()) > 0
    assert list(tmp_path.glob("*.json")) == []


def test_a_float_graph_too(tmp_path: Path) -> None:
    graph = conv_net()
    graph.save(tmp_path / "plain.onnx")
    times = layer_times(tmp_path / "plain.onnx", graph, samples_for(graph, 1))
    assert {"conv1", "conv2", "y"} <= set(times)
