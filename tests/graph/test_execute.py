"""Executor: ONNX Runtime on a graph, with errors that say whose fault it was."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import tiny
from textnets import as_graph, assert_near, net, normal, run

import edgebig.graph.execute as execute_module
from edgebig.errors import GraphError
from edgebig.graph import Executor


@pytest.mark.parametrize("level", ["off", "basic", "all"])
def test_a_graph_and_its_file_give_the_same_numbers(tmp_path: Path, level: Literal["off", "basic", "all"]) -> None:
    feeds = {"x": normal(6, 8)}
    onnx.save(tiny.mlp(), tmp_path / "mlp.onnx")
    for given in (as_graph(tiny.mlp()), tmp_path / "mlp.onnx"):
        with Executor(given, level, threads=1) as executor:
            assert_near(executor.run(feeds), run(tiny.mlp(), feeds), 1e-6)


def test_some_outputs_are_asked_and_feeds_it_does_not_take_passed_over() -> None:
    feeds = {"left": normal(1, 2), "right": normal(1, 2, seed=1), "frozen": np.array(16000)}
    with Executor(as_graph(tiny.two_inputs())) as executor:
        assert executor.output_names == ["sum", "product"]
        found = executor.run(feeds, ["product"])
    assert list(found) == ["product"]
    np.testing.assert_array_equal(found["product"], feeds["left"] * feeds["right"])


def test_feeds_that_do_not_fit_are_an_error_of_the_graph() -> None:
    with Executor(as_graph(tiny.mlp())) as executor:
        for feeds in ({}, {"x": normal(2, 7)}, {"x": normal(2, 8, dtype=np.float64)}):
            with pytest.raises(GraphError, match="ONNX Runtime failed"):
                executor.run(feeds)
        with pytest.raises(GraphError, match="ONNX Runtime failed"):
            executor.run({"x": normal(2, 8)}, ["no such output"])


def test_a_graph_that_onnx_runtime_refuses_is_named() -> None:
    model = net("float[2] x", "float[2] y", "y = NoSuchOperator(x)", check=False)
    with pytest.raises(GraphError, match=r"ONNX Runtime refuses the graph tiny: .*NoSuchOperator") as caught:
        Executor(as_graph(model))
    assert "\n" not in str(caught.value)


def test_large_weights_go_through_a_file_that_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute_module, "LARGE", 0)
    monkeypatch.setattr("edgebig.graph.memory._SMALL", 1)
    feeds = {"x": normal(2, 8)}
    with Executor(as_graph(tiny.mlp())) as executor:
        assert executor._folder is not None
        folder = Path(executor._folder.name)
        assert (folder / "model.onnx").is_file() and (folder / "weights").stat().st_size > 0
        assert_near(executor.run(feeds), run(tiny.mlp(), feeds), 1e-6)
    assert not folder.exists()
    executor.close()


def test_a_folder_for_weights_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(execute_module, "LARGE", 0)
    monkeypatch.setattr(execute_module, "write_weights", full)
    with pytest.raises(GraphError, match="No space left on device"):
        Executor(as_graph(tiny.mlp()))


def test_outputs_in_place_are_those_of_a_run_and_outlive_it() -> None:
    feeds = {"left": normal(1, 2), "right": normal(1, 2, seed=1), "frozen": np.array(16000)}
    with Executor(as_graph(tiny.two_inputs())) as executor:
        found = executor.run_in_place(feeds, ["product", "sum"])
        again = executor.run_in_place({name: 2 * array for name, array in feeds.items()}, ["product"])
        expected = executor.run(feeds, ["product", "sum"])
        with pytest.raises(GraphError, match="ONNX Runtime failed"):
            executor.run_in_place({"left": normal(1, 2)}, ["sum"])
    assert list(found) == list(expected) == ["product", "sum"]
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.owndata
    np.testing.assert_array_equal(again["product"], 4 * expected["product"])


def test_what_cannot_be_shared_is_copied() -> None:
    model = net("float[2] x", "bool[2] y", "zero = Constant<value_float = 0.0>()\n y = Greater(x, zero)")
    with Executor(as_graph(model)) as executor:
        turned = np.float32([[-1, 0], [2, 0]]).T[0]
        assert not turned.flags.c_contiguous
        assert executor.run_in_place({"x": turned}, ["y"])["y"].tolist() == [False, True]
