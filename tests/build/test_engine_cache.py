"""Engines from the cache: the builder is not called again, and only for the very same request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny
from click.testing import CliRunner

import edgebig
from edgebig.build import BuildOptions, EngineCache, Flavour, Profile, find_flavour
from edgebig.cli.compile import command
from edgebig.errors import RecipeError, UsageError
from edgebig.steps import build as step


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEBIG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def test_a_second_compile_does_not_build(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    builds: list[Path] = []
    real = step.build_engine

    def counted(graph: Path, flavour: Flavour, **more: Any) -> Any:
        builds.append(graph)
        return real(graph, flavour, **more)

    monkeypatch.setattr(step, "build_engine", counted)
    onnx.save(tiny.mlp(), tmp_path / "mlp.onnx")

    def engine(name: str, **more: Any) -> bytes:
        bundle = edgebig.compile(tmp_path / "mlp.onnx", out=tmp_path / name, **{"target": "l4", **more})
        bundle.verify()
        return (bundle.path / bundle.part().engines[0].path).read_bytes()

    first = engine("a")
    assert engine("b") == first and len(builds) == 1
    assert engine("c", precision="fp16") != first and len(builds) == 2
    engine("d", target="a100")
    engine("e", min_shapes="x:1x8", opt_shapes="x:2x8", max_shapes="x:4x8")
    assert len(builds) == 4
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert len(engine("f")) == len(first) and len(builds) == 5
    monkeypatch.setenv("EDGEBIG_CACHE", "off")
    engine("g")
    assert len(builds) == 6


def test_one_engine_for_several_capabilities(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    onnx.save(tiny.mlp(), tmp_path / "mlp.onnx")
    asked = ["-t", "l4", "--capabilities", "8.6, 8.9", "-o", str(tmp_path / "a")]
    run = CliRunner().invoke(command, [str(tmp_path / "mlp.onnx"), *asked])
    assert run.exit_code == 0, run.output
    (engine,) = edgebig.Bundle.open(tmp_path / "a").part().engines
    assert engine.hardware == ("8.6", "8.9") and engine.path == "engines/model.sm86.sm89.engine"
    for target, wanted, message in (
        ("l4", ["8.6"], "lack l4's own, 8.9: add it"),
        ("cpu", ["8.9"], "not for cpu: leave them out"),
    ):
        with pytest.raises(UsageError, match=message):
            edgebig.compile(tmp_path / "mlp.onnx", out=tmp_path / "b", target=target, capabilities=wanted)
    with pytest.raises(RecipeError, match=r"capabilities\.0"):
        edgebig.compile(tmp_path / "mlp.onnx", out=tmp_path / "b", target="l4", capabilities=["sm89"])


def test_each_part_of_the_request_and_the_weights_beside_the_graph_count(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    graph, rtx = tmp_path / "g.onnx", find_flavour("tensorrt-rtx")
    graph.write_bytes(b"graph")
    one = ({"x": Profile((1,), (2,), (3,))},)
    EngineCache(graph, rtx, one, ["8.9"], BuildOptions()).write(b"engine")
    assert EngineCache(graph, rtx, one, ["8.9"], BuildOptions()).read() == b"engine"
    other = Flavour("tensorrt-rtx", "9.9", rtx.module)
    for asked in (
        (graph, other, one, ["8.9"], BuildOptions()),
        (graph, rtx, (), ["8.9"], BuildOptions()),
        (graph, rtx, one, ["8.9", "8.6"], BuildOptions()),
        (graph, rtx, one, ["8.9"], BuildOptions(aux_streams=0)),
    ):
        assert EngineCache(*asked).read() is None
    (tmp_path / "g.onnx.data").write_bytes(b"weights")
    assert EngineCache(graph, rtx, one, ["8.9"], BuildOptions()).read() is None
