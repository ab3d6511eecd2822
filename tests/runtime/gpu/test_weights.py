"""Weights that come from the graph, or stream: what TensorRT is asked, and what is told where it fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_tensorrt
import pytest
from fake_tensorrt import FakeTensorRt

from edgebig.bundle import Bundle, manifest_text
from edgebig.errors import BackendError, BundleError
from edgebig.runtime import load
from edgebig.runtime.gpu.engine import LoadedEngine
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


def test_the_manifest_says_what_the_runtime_does_before_the_first_context(
    trt: FakeTensorRt, gpu_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, said = module()
    trt.Refitter, trt.OnnxParserRefitter = fake.Refitter, fake.OnnxParserRefitter  # type: ignore[attr-defined]
    budgets: list[tuple[int, int]] = []

    def set_budget(engine: Any, budget: int) -> None:
        budgets.append((budget, trt.contexts))

    monkeypatch.setattr(fake_tensorrt.Engine, "streamable_weights_size", 1000, raising=False)
    streaming = property(lambda engine: budgets[-1][0], set_budget)
    monkeypatch.setattr(fake_tensorrt.Engine, "weight_streaming_budget_v2", streaming, raising=False)
    part = gpu_bundle.part()
    engine = replace(part.engines[0], stripped=True, weight_streaming=700)
    manifest = replace(gpu_bundle.manifest, parts={"model": replace(part, engines=(engine,))})
    (gpu_bundle.path / "manifest.json").write_text(manifest_text(manifest))
    with load(gpu_bundle.path) as session:
        assert session.backend == "tensorrt"
    assert said == ["refitter", str(gpu_bundle.path / "graphs/model.onnx"), "refit"] and budgets == [(700, 0)]
    graph = gpu_bundle.path / "graphs/model.onnx"
    graph.write_bytes(graph.read_bytes() + b"!")
    with pytest.raises(BundleError, match=r"graphs/model\.onnx is not the file of the manifest"):
        load(gpu_bundle.path)


def test_an_engine_that_cannot_be_made_ready_says_why(trt: FakeTensorRt, engine: Path) -> None:
    fake, _ = module(refits=False)
    trt.Refitter, trt.OnnxParserRefitter = fake.Refitter, fake.OnnxParserRefitter  # type: ignore[attr-defined]
    with pytest.raises(
        BackendError, match=r"model\.engine: it holds no weights .* build it anew with 'edgebig finish --force'"
    ):
        LoadedEngine(trt, engine, Weights(GRAPH))
