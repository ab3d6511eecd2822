"""The gate lets near results through and names what is not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from nets import conv_net, net, node, normal, run, samples_for

from edgebig.errors import AccuracyError
from edgebig.similarity import Similarity
from edgebig.verify import check_faithful, outputs_of, similarity_of


@pytest.mark.parametrize("level", ["off", "basic", "all"])
def test_outputs_of_a_graph_and_of_its_file_are_the_same(level, tmp_path: Path) -> None:
    graph = conv_net()
    graph.save(tmp_path / "model.onnx")
    samples = samples_for(graph, 2)
    for answer, from_file, sample in zip(
        outputs_of(graph, samples, level), outputs_of(tmp_path / "model.onnx", samples, level), samples, strict=True
    ):
        assert list(answer) == ["y"]
        np.testing.assert_array_equal(answer["y"], from_file["y"])
        np.testing.assert_allclose(answer["y"], run(graph, sample)["y"], rtol=1e-4, atol=1e-4)


def test_frozen_inputs_go_to_the_original_alone() -> None:
    graph = net([node("Mul", "x factor", "y")], {"x": [2], "factor": [1]}, ["y"])
    frozen = {"factor": np.array([3], np.float32)}
    (answer,) = outputs_of(graph, [{"x": np.ones(2, np.float32)}], "basic", frozen)
    assert answer["y"].tolist() == [3, 3]


def test_the_worst_example_of_each_output() -> None:
    expected = [{"a": np.array([1.0, 0]), "b": np.ones(2)}, {"a": np.array([2.0, 0]), "b": np.ones(2)}]
    found = [{"a": np.array([1.0, 0]), "b": np.ones(2)}, {"a": np.array([2.0, 1]), "b": np.ones(2)}]
    similarity = similarity_of(expected, found)
    assert list(similarity) == ["a", "b"]
    assert similarity["a"].max_relative == 0.5 and similarity["a"].cosine == pytest.approx(2 / math.sqrt(5))
    assert similarity["b"].sqnr_db == math.inf


def test_an_output_that_is_missing_or_of_another_shape() -> None:
    expected = [{"y": np.ones((2, 3))}]
    with pytest.raises(AccuracyError, match=r"output 'y' should have the shape \(2, 3\), found the shape \(3, 2\)"):
        similarity_of(expected, [{"y": np.ones((3, 2))}])
    with pytest.raises(AccuracyError, match=r"found no such output"):
        similarity_of(expected, [{"z": np.ones((2, 3))}])


def test_the_gate() -> None:
    good, bad = Similarity(0.9999, 60, 0.1, 1e-3), Similarity(0.9, 20, 3, 0.25)
    assert check_faithful({"y": good}, 1e-3, "it") == "it: cosine 0.999900, largest relative difference 1.0e-03"
    with pytest.raises(
        AccuracyError, match=r"it: the output 'z' differs by 0.25 .*allowed are 0.001: use a more precise"
    ):
        check_faithful({"y": good, "z": bad}, 1e-3, "it")
    with pytest.raises(AccuracyError, match="holds NaN or infinity"):
        check_faithful({"y": Similarity(0, -math.inf, math.inf, math.inf)}, 1e30, "it")


def test_a_graph_that_gives_nan_is_refused() -> None:
    graph = net([node("Sqrt", "x", "y")], {"x": [2]}, ["y"])
    broken = net([node("Neg", "x", "n"), node("Sqrt", "n", "y")], {"x": [2]}, ["y"])
    samples = [{"x": np.abs(normal(2)) + 1}]
    similarity = similarity_of(outputs_of(graph, samples, "off"), outputs_of(broken, samples, "off"))
    with pytest.raises(AccuracyError, match="'y' holds NaN or infinity"):
        check_faithful(similarity, 1e30, "it")
