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
from edgebig.cli.main import cli
from edgebig.errors import BuildError, RecipeError, UsageError
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
    run = CliRunner().invoke(cli, ["compile", str(tmp_path / "mlp.onnx"), *asked])
    assert run.exit_code == 0, run.output
    (engine,) = edgebig.Bundle.open(tmp_path / "a").part().engines
    assert engine.hardware == ("8.6", "8.9") and engine.path == "engines/model.sm86.sm89.engine"
    for target, wanted, message in (
        ("l4", ["8.6"], "lack l4's own, 8.9: add it"),
        ("cpu", ["8.9"], "not for cpu: leave them out"),
    ):
        with pytest.raises(UsageError, match=message):
            edgebig.compile(tmp_path / "mlp.onnx", out=tmp_path / "b", target=target, capabilities=wanted)
    with pytest.raises(RecipeError, match="capabilities are written 8.6,8.9"):
        edgebig.compile(tmp_path / "mlp.onnx", out=tmp_path / "b", target="l4", capabilities=["sm89"])


def test_a_refused_range_is_not_tried_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    asked: list[tuple[int, ...]] = []
    real = step.build_engine

    def refuses_ranges(graph: Path, flavour: Flavour, **more: Any) -> Any:
        (profiles,) = more["profiles"]
        asked.append(profiles["x"].max)
        if profiles["x"].min != profiles["x"].max:
            raise BuildError("no kernel for the range")
        return real(graph, flavour, **more)

    monkeypatch.setattr(step, "build_engine", refuses_ranges)
    onnx.save(tiny.mlp(), tmp_path / "mlp.onnx")
    first = edgebig.compile(tmp_path / "mlp.onnx", out=tmp_path / "a", target="l4")
    second = edgebig.compile(tmp_path / "mlp.onnx", out=tmp_path / "b", target="l4")
    assert asked == [(8, 8), (1, 8)]
    assert first.part().profiles == second.part().profiles == {"x": {"min": [1, 8], "opt": [1, 8], "max": [1, 8]}}
    assert first.manifest.stages[4].declined == second.manifest.stages[4].declined
    assert "since the derived range was refused: no kernel for the range" in second.manifest.stages[4].declined[0]
    edgebig.compile(tmp_path / "mlp.onnx", out=tmp_path / "c", target="a100")
    assert asked[2:] == [(8, 8), (1, 8)]
    with pytest.raises(BuildError, match="no kernel for the range"):
        edgebig.compile(
            tmp_path / "mlp.onnx",
            out=tmp_path / "d",
            target="l4",
            min_shapes="x:1x8",
            opt_shapes="x:1x8",
            max_shapes="x:8x8",
        )


def test_a_lack_of_memory_is_not_remembered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    asked: list[tuple[int, ...]] = []
    real = step.build_engine

    def lacks_memory_once(graph: Path, flavour: Flavour, **more: Any) -> Any:
        asked.append(more["profiles"][0]["x"].max)
        if len(asked) == 1:
            raise BuildError("Requested amount of GPU memory could not be allocated")
        return real(graph, flavour, **more)

    monkeypatch.setattr(step, "build_engine", lacks_memory_once)
    onnx.save(tiny.mlp(), tmp_path / "mlp.onnx")
    edgebig.compile(tmp_path / "mlp.onnx", out=tmp_path / "a", target="l4")
    second = edgebig.compile(tmp_path / "mlp.onnx", out=tmp_path / "b", target="l4")
    assert asked == [(8, 8), (1, 8), (8, 8)] and second.part().profiles["x"]["max"] == [8, 8]


def test_options_reach_the_builder_the_manifest_and_the_cache(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    onnx.save(tiny.mlp(), tmp_path / "mlp.onnx")
    for number, given in enumerate((["--opt-level", "0"], ["--weight-streaming", "1M"], ["--version-compatible"], [])):
        asked = [str(tmp_path / "mlp.onnx"), "-t", "l4", "-o", str(tmp_path / str(number)), *given]
        run = CliRunner().invoke(cli, ["compile", *asked])
        assert run.exit_code == 0, run.output
    declined = edgebig.Bundle.open(tmp_path / "0").manifest.stages[4].declined
    assert any("optimization level: TensorRT-RTX" in line for line in declined)
    level, streams, lasts, plain = (edgebig.Bundle.open(tmp_path / str(n)).part().engines[0] for n in range(4))
    assert '"optimization_level": 0' in (level.built or {})["options"]
    assert (streams.weight_streaming, plain.weight_streaming) == (1 << 20, None)
    assert (lasts.version_compatible, plain.version_compatible) == (True, False)
    assert len(list(folder.glob("*.engine"))) == 4
    assert edgebig.Bundle.open(tmp_path / "1").manifest.recipe["build"]["weight_streaming"] == 1 << 20


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
