"""Weights that come from the graph, or stream: what TensorRT is asked, and what is told where it fails."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgebig.runtime.gpu.weights import Weights, prepare_weights

GRAPH = Path("graphs/model.onnx")


class Engine:
    """Takes budgets up to a limit, as TensorRT does while there is no context."""

    streamable_weights_size = 1000

    def __init__(self, takes: bool = True) -> None:
        self._budget, self._takes = -1, takes

    def get_weight_streaming_automatic_budget(self) -> int:
        return 300

    @property
    def weight_streaming_budget_v2(self) -> int:
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget: int) -> None:
        if self._takes:
            self._budget = budget


def module(parses: bool = True, refits: bool = True) -> tuple[Any, list[str]]:
    said: list[str] = []

    class Refitter:
        def __init__(self, engine: Any, logger: Any) -> None:
            said.append("refitter")

        def refit_cuda_engine(self) -> bool:
            said.append("refit")
            return refits

        def get_missing_weights(self) -> list[str]:
            return ["w"]

    class OnnxParserRefitter:
        def __init__(self, refitter: Refitter, logger: Any) -> None:
            assert isinstance(refitter, Refitter)

        def refit_from_file(self, model: str) -> bool:
            said.append(model)
            return parses

    return SimpleNamespace(Refitter=Refitter, OnnxParserRefitter=OnnxParserRefitter), said


def test_an_engine_without_weights_takes_the_graphs() -> None:
    trt, said = module()
    assert prepare_weights(trt, None, Engine(), Weights(GRAPH)) == ""
    assert said == ["refitter", "graphs/model.onnx", "refit"]


@pytest.mark.parametrize("fails", [{"parses": False}, {"refits": False}])
def test_a_graph_that_does_not_fit_is_told(fails: dict[str, bool]) -> None:
    trt, _ = module(**fails)
    found = prepare_weights(trt, None, Engine(), Weights(GRAPH))
    assert found == "it holds no weights and does not take those of model.onnx (1 are missing)"


@pytest.mark.parametrize(("asked", "budget"), [("auto", 300), (0, 0), (700, 700), (5000, 1000)])
def test_the_budget_of_streaming_weights_is_set(asked: int | str, budget: int) -> None:
    engine = Engine()
    assert prepare_weights(module()[0], None, engine, Weights(streaming=asked)) == ""
    assert engine.weight_streaming_budget_v2 == budget


def test_a_budget_that_is_not_taken_is_told() -> None:
    found = prepare_weights(module()[0], None, Engine(takes=False), Weights(streaming=700))
    assert found == "TensorRT does not take 700 bytes as the budget of its streaming weights, of 1000"
