"""``edgebig compile``: what it prints to people, to programs and to pipes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from cli_runner import Run, environment, files_below, run_process

from edgebig.bundle import Bundle
from edgebig.errors import EdgebigError
from edgebig.pipeline import compile as compile_model
from edgebig.recipe import BuildRecipe
from edgebig.runtime import golden

_STAGES = ["source", "graph", "calibrate", "quantize", "build", "verify"]


def test_plain_lines_on_a_pipe_then_a_summary(edgebig: Run, mlp: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.bundle"
    result = edgebig("compile", mlp, "-o", out)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    for number, stage in enumerate(_STAGES, 1):
        assert lines[2 * number - 2] == f"[{number}/6] {stage} …"
        assert re.fullmatch(rf"\[{number}/6\] {stage} +\d+\.\d s", lines[2 * number - 1])
    assert f"{out}: mlp in fp32 for cpu, " in result.out
    assert re.search(r"^  graphs/model.onnx +\d+\.\d kB$", result.out, re.MULTILINE)
    assert re.search(r"^  y +cosine 1.000000", result.out, re.MULTILINE)
    assert lines[-2:] == [f"Next: edgebig bench {out}", f"      edgebig run {out} -i x=FILE"]
    Bundle.open(out).verify()


def test_quiet_prints_the_path_and_verbose_what_was_done(
    edgebig: Run, mlp: Path, samples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "b.bundle"
    quiet = edgebig("compile", mlp, "-o", out, "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, f"{out}\n", "")
    verbose = edgebig("compile", mlp, "-o", out, "-v", "-f", "-p", "int8", "-c", samples)
    assert verbose.code == 0
    assert "      model: min-max ranges of 2 tensors over 36 samples of samples.npz, 4 golden inputs\n" in verbose.out


def test_json_is_one_object_with_the_figures(edgebig: Run, mlp: Path, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.bundle"
    result = edgebig("compile", mlp, "-o", out, "--json", "-p", "int8", "-c", samples, "--keep-original")
    found = result.json
    assert (found["bundle"], found["name"], found["target"], found["precision"]) == (str(out), "mlp", "cpu", "int8")
    assert [stage["name"] for stage in found["stages"]] == _STAGES
    for stage in found["stages"]:
        assert set(stage) == {"name", "seconds", "peak_memory_bytes", "notes", "declined"}
        assert stage["seconds"] >= 0
        assert stage["peak_memory_bytes"] > 1e6
    on_disk = {str(f.relative_to(out)): f.stat().st_size for f in out.rglob("*") if f.is_file()}
    assert found["files"] == {name: size for name, size in on_disk.items() if name != "manifest.json"}
    assert "graphs/model.original.onnx" in found["files"]
    assert found["bytes"] == sum(found["files"].values())
    part = found["parts"]["model"]
    assert part["quantized"] is True
    assert part["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 8]}]
    assert 0.99 < part["similarity"]["y"]["cosine"] <= 1
    assert found["versions"]["onnx"] == onnx.__version__
    assert "[1/6] source …" in result.err


def test_json_has_no_number_that_json_lacks(edgebig: Run, tmp_path: Path) -> None:
    onnx.save(tiny.add_one(), tmp_path / "add.onnx")
    result = edgebig("compile", tmp_path / "add.onnx", "-o", tmp_path / "b", "--json")
    assert result.json["parts"]["model"]["similarity"]["y"]["sqnr_db"] == "Infinity"


def test_an_error_as_json(edgebig: Run, tmp_path: Path) -> None:
    result = edgebig("compile", tmp_path / "absent.onnx", "-o", tmp_path / "b", "--json")
    message = f"no such file: {tmp_path / 'absent.onnx'}"
    assert result.json == {"error": {"class": "SourceError", "message": message, "exit_code": 4}}
    assert (result.code, result.err) == (4, f"edgebig: error: {message}\n")
    usage = edgebig("compile", "--json")
    assert usage.json["error"]["exit_code"] == usage.code == 2
    assert usage.err == "edgebig: error: Missing argument 'MODEL': see 'edgebig compile -h'\n"


def test_shapes_and_frozen_inputs_reach_the_bundle(edgebig: Run, tmp_path: Path) -> None:
    model = tiny.two_inputs()
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "two.onnx")
    out = tmp_path / "b.bundle"
    assert edgebig("compile", tmp_path / "two.onnx", "-o", out, "-s", "left:1x2", "--freeze", "right=2.5").code == 0
    bundle = Bundle.open(out)
    assert [str(spec) for spec in bundle.part().inputs] == ["left: float32 1x2"]
    for inputs, outputs in golden(bundle):
        np.testing.assert_allclose(outputs["product"], inputs["left"] * 2.5)
    assert bundle.manifest.recipe["freeze"] == {"right": 2.5}


def test_an_engine_for_a_gpu_that_is_not_here(edgebig: Run, mlp: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    found = edgebig("compile", mlp, "-o", tmp_path / "b", "-t", "l4", "-p", "fp16", "--json").json
    engine = found["parts"]["model"]["engines"][0]
    assert (engine["kind"], engine["hardware"]) == ("tensorrt-rtx", ["8.9"])
    assert found["files"][engine["path"]] > 1000
    assert found["parts"]["model"]["precision"] == {"float16": 212}


_BUILDS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "agx-orin-64gb",
        "--workspace 2G --opt-level 5 --aux-streams 2 --dla-core 1 --no-gpu-fallback --refit --strip-weights "
        "--weight-streaming 1G --version-compatible",
        {
            "workspace": "2G",
            "optimization_level": 5,
            "aux_streams": 2,
            "dla_core": 1,
            "gpu_fallback": False,
            "refit": True,
            "strip_weights": True,
            "weight_streaming": "1G",
            "version_compatible": True,
        },
    ),
    (
        "h100",
        "--hardware-compatible ampere+ --weight-streaming auto",
        {"hardware_compatible": "ampere+", "weight_streaming": "auto"},
    ),
]
"""A target, options of the command line, and the same from Python: every field of the recipe's ``build``."""


@pytest.mark.parametrize(("target", "options", "build"), _BUILDS)
def test_the_builders_options_are_the_same_from_python(
    edgebig: Run, mlp: Path, tmp_path: Path, target: str, options: str, build: dict[str, Any]
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    asked = ["-t", target, "-p", "fp16", "-s", "x:1x8", *options.split()]
    assert edgebig("compile", mlp, "-o", tmp_path / "cli", *asked).code == 0
    made = compile_model(mlp, out=tmp_path / "api", target=target, precision="fp16", shapes="x:1x8", build=build)
    recipe = Bundle.open(tmp_path / "cli").manifest.recipe
    assert made.manifest.recipe == recipe
    assert recipe["build"] == BuildRecipe.model_validate(build).model_dump() != BuildRecipe().model_dump()


def test_no_option_of_the_builder_was_forgotten() -> None:
    assert {field for _, _, build in _BUILDS for field in build} == set(BuildRecipe.model_fields)


def test_what_the_builder_lacks_is_said_alike_from_python(edgebig: Run, mlp: Path, tmp_path: Path) -> None:
    said = edgebig("compile", mlp, "-o", tmp_path / "b", "-t", "l4", "-p", "fp16", "--dla-core", "0")
    with pytest.raises(EdgebigError, match="l4 has no DLA") as refused:
        compile_model(mlp, out=tmp_path / "b", target="l4", precision="fp16", build={"dla_core": 0})
    assert (said.code, said.err) == (refused.value.exit_code, f"edgebig: error: {refused.value}\n")


def test_a_process_prints_one_object_and_its_exit_code(mlp: Path, tmp_path: Path) -> None:
    done = run_process("compile", mlp, "-o", tmp_path / "b", "--json")
    assert done.code == 0
    assert done.json["target"] == "cpu"
    again = run_process("compile", mlp, "-o", tmp_path / "b", "-q")
    assert (again.code, again.out) == (13, "")
    assert again.err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["graph", "build"])
def test_a_signal_leaves_nothing(tmp_path: Path, shared_data: Path, number: signal.Signals, stage: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    goal, temporary = tmp_path / "goal", tmp_path / "tmp"
    goal.mkdir()
    temporary.mkdir()
    model = shared_data / "twinlitenet" / "best.onnx"
    process = subprocess.Popen(
        [sys.executable, "-m", "edgebig", "compile", model, "-o", goal / "b", "-t", "l4", "-p", "fp16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), "TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.endswith(f" {stage} …\n"):
            break
    time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "edgebig: interrupted\n")
    assert files_below(goal) == []
    assert files_below(temporary) == []


def test_a_reader_that_goes_away_does_not_lose_the_bundle(mlp: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgebig", "compile", mlp, "-o", tmp_path / "b"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"[1/6] source")
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    Bundle.open(tmp_path / "b").verify()
