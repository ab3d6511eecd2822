"""The smallest piece is the ruined layer, and what is saved shows the error by itself."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from broken import quantized, ruined
from nets import conv_net, net, node, normal, residual_net, samples_for

from edgebig.errors import OutputError
from edgebig.graph import Graph
from edgebig.verify import find_smallest, save_finding


def run_file(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})
    return found


@pytest.mark.parametrize("name", ["conv1", "conv2", "y"])
def test_the_piece_is_the_ruined_layer_with_its_pairs(name: str, tmp_path: Path) -> None:
    graph = conv_net()
    samples = samples_for(graph, 3)
    weight = {"conv1": "w1", "conv2": "w2", "y": "w3"}[name]
    finding = find_smallest(graph, ruined(quantized(graph, samples, "l4"), weight, 1.8), name, samples)
    assert finding.exact.nodes == (name,)
    assert name in finding.piece.nodes and not {"conv1", "conv2", "y"} - {name} & set(finding.piece.nodes)
    kinds = [n.op_type for n in finding.piece.graph.model.graph]
    assert sorted(kinds) == sorted([*["QuantizeLinear"], *["DequantizeLinear"] * 2, kinds[-1]])
    save_finding(finding, tmp_path / "found", "what was found")
    assert sorted(os.listdir(tmp_path / "found")) == [
        "README.txt",
        "expected.npz",
        "inputs.npz",
        "subgraph.float.onnx",
        "subgraph.onnx",
    ]
    with np.load(tmp_path / "found" / "inputs.npz") as loaded:
        inputs = {key: loaded[key] for key in loaded.files}
    with np.load(tmp_path / "found" / "expected.npz") as loaded:
        expected = loaded[name]
    exact = run_file(tmp_path / "found" / "subgraph.float.onnx", inputs)
    wrong = run_file(tmp_path / "found" / "subgraph.onnx", inputs)
    np.testing.assert_allclose(exact, expected, rtol=1e-4, atol=1e-4)
    assert np.sum((wrong - expected) ** 2) > 0.3 * np.sum(expected**2)
    onnx.checker.check_model(tmp_path / "found" / "subgraph.onnx")


def test_an_error_of_many_layers_needs_more_than_one() -> None:
    """Each of twelve layers adds a little; the last one alone shows less than half of it."""
    nodes = [node("MatMul", f"t{i} w{i}", f"t{i + 1}") for i in range(12)]
    weights = {f"w{i}": np.linalg.qr(normal(16, 16, seed=i))[0].astype(np.float32) for i in range(12)}
    graph = net(nodes, {"t0": ["n", 16]}, ["t12"], weights)
    samples = samples_for(graph, 2, batch=8)
    finding = find_smallest(graph, quantized(graph, samples, "l4"), "t12", samples)
    assert 4 < len(finding.exact.nodes) < 9 and finding.exact.nodes[-1] == "t12"


def test_what_cannot_be_narrowed_is_the_whole() -> None:
    graph = residual_net()
    samples = samples_for(graph, 2)
    other = ruined(quantized(graph, samples), "w2", 1.5)
    for value in [v for n in other.model.graph for v in n.outputs if v.name != "y"]:
        value.name = f"other/{value.name}"
    finding = find_smallest(graph, other, "y", samples)
    assert set(finding.exact.nodes) == {n.name for n in graph.model.graph}
    assert list(finding.inputs) == ["x"]


def test_the_readme_runs_as_it_is_written(tmp_path: Path) -> None:
    graph = conv_net()
    samples = samples_for(graph, 1)
    finding = find_smallest(graph, ruined(quantized(graph, samples), "w2", 1.8), "conv2", samples)
    save_finding(finding, tmp_path / "found", "what was found")
    text = (tmp_path / "found" / "README.txt").read_text(encoding="utf-8")
    code = "\n".join(line[2:] for line in text.split("Run it\n")[1].splitlines())
    ast.parse(code)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "found", capture_output=True, text=True)
    largest, scale = map(float, done.stdout.split())
    assert largest > 0.1 * scale


def test_nothing_is_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    graph = conv_net()
    samples = samples_for(graph, 1)
    finding = find_smallest(graph, quantized(graph, samples), "conv2", samples)
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="there exists: choose another name"):
        save_finding(finding, tmp_path / "there", "")
    with pytest.raises(OutputError, match="cannot write"):
        save_finding(finding, tmp_path / "missing" / "found", "")
    assert os.listdir(tmp_path) == ["there"] and os.listdir(tmp_path / "there") == []


def test_graphs_are_left_as_they_were() -> None:
    graph = conv_net()
    samples = samples_for(graph, 1)
    lowered = quantized(graph, samples)
    before = Graph.digest(graph), Graph.digest(lowered)
    find_smallest(graph, lowered, "conv2", samples)
    assert (Graph.digest(graph), Graph.digest(lowered)) == before
