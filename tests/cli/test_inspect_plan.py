"""``edgebig inspect --plan``, and ``compile --plan`` of what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import Run
from nets import conv_net, samples_for

import edgebig as package
from edgebig.recipe import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, and its bundles ``q`` (in INT8, one layer in float) and ``plain``."""
    folder = tmp_path_factory.mktemp("plan")
    graph = conv_net()
    graph.save(folder / "conv.onnx")
    recipe = Recipe(precision="int8", repair=(), keep_float=("conv2",))
    package.compile(folder / "conv.onnx", recipe=recipe, calibration=samples_for(graph, 24), out=folder / "q")
    package.compile(folder / "conv.onnx", out=folder / "plain")
    return folder


def test_the_table(edgebig: Run, folder: Path) -> None:
    result = edgebig("inspect", folder / "q", "--plan")
    assert result.code == 0
    plan = json.loads((folder / "q" / "evidence" / "model.plan.json").read_text())
    lines = [line.strip() for line in result.out.splitlines()]
    assert lines[0] == "part model: int8 for cpu, 2 of 3 layers quantized"
    # nothing was searched: no figures
    assert lines[1].split() == ["layer", "operator", "format", "weight", "scale", "zero", "point", "reason"]
    x = plan["activations"]["x"]
    assert lines[2].split()[:7] == [
        "conv1",
        "Conv",
        "int8",
        "per",
        "channel",
        f"{x['scale']:.4g}",
        str(x["zero_point"]),
    ]
    assert lines[3].split() == ["conv2", "Conv", "float", *["kept", "in", "float", "by", "the", "recipe", "(conv2)"]]
    assert lines[4].startswith("y") and len(lines) == 5


def test_figures_of_a_search(edgebig: Run) -> None:
    from edgebig.cli.inspect_plan import plan_json, plan_lines

    plan = {
        "precision": "int8",
        "target": "cpu",
        "repairs": ["SmoothQuant: 2 inputs"],
        "layers": [
            {"node": "a", "format": "int8", "measured": {"seconds_saved": 8.5e-5, "drop_alone_int8": 0.00123}},
            {"node": "b", "format": "float", "measured": {"seconds_saved": 1e-9, "drop_alone_int8": "Infinity"}},
            {"node": "c", "format": "float", "measured": {"drop_alone_int8": 0.5, "drop_alone_fp8": 0.25}},
        ],
        "activations": {},
    }
    lines = plan_lines({"one": plan, "two": plan})
    assert [line.split() for line in lines[1:6]] == [
        ["repaired:", "SmoothQuant:", "2", "inputs"],
        ["layer", "format", "loss", "alone", "saves", "reason"],
        ["a", "int8", "0.0012", "85.0", "us"],
        ["b", "float", "inf", "nothing"],
        ["c", "float", "0.25"],
    ]
    assert lines[6] == "" and lines[7].startswith("part two")
    assert plan_json({"one": plan}) is plan and list(plan_json({"one": plan, "two": plan})) == ["one", "two"]


def test_what_json_prints_is_a_plan_to_compile_with(edgebig: Run, folder: Path, tmp_path: Path) -> None:
    printed = edgebig("inspect", folder / "q", "--plan", "--json")
    assert printed.json == json.loads((folder / "q" / "evidence" / "model.plan.json").read_text())
    (tmp_path / "p.json").write_text(printed.out, encoding="utf-8")
    done = edgebig("compile", folder / "conv.onnx", "--plan", tmp_path / "p.json", "-o", tmp_path / "b", "-q")
    assert done.code == 0, done.err
    first, second = (json.loads((f / "manifest.json").read_text()) for f in (folder / "q", tmp_path / "b"))
    assert first["files"]["graphs/model.onnx"] == second["files"]["graphs/model.onnx"]


def test_what_has_no_plan(edgebig: Run, folder: Path) -> None:
    plain = edgebig("inspect", folder / "plain", "--plan")
    assert plain.code == 14 and "has no plan: it is not quantized (fp32)" in plain.err
    for arguments in ((folder / "conv.onnx", "--plan"), (folder / "q", "--plan", "--layers")):
        result = edgebig("inspect", *arguments)
        assert result.code == 2 and "--plan shows the plan of a bundle" in result.err


def test_a_plan_that_does_not_fit_leaves_nothing(edgebig: Run, folder: Path, tmp_path: Path) -> None:
    plan = folder / "q" / "evidence" / "model.plan.json"
    (tmp_path / "p.json").write_text(plan.read_text().replace('"conv1"', '"conv9"'))
    for arguments, code, words in (
        (("--plan", plan, "-t", "l4"), 8, "is for cpu, and the target is l4"),
        (("--plan", tmp_path / "p.json"), 8, "names the layer 'conv9'"),
        (("--plan", plan, "-p", "auto"), 8, "leave --precision out"),
        (("--plan", tmp_path / "none.json"), 8, "No such file"),
    ):
        result = edgebig("compile", folder / "conv.onnx", *arguments, "-o", tmp_path / "b")
        assert result.code == code and words in result.err and result.err.count("\n") <= 3
        assert sorted(p.name for p in tmp_path.iterdir()) == ["p.json"]


def test_options_that_are_fields_of_the_recipe(edgebig: Run, folder: Path, tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "s.npz", x=np.concatenate([s["x"] for s in samples_for(conv_net(), 24)]))
    done = edgebig(
        "compile", folder / "conv.onnx", "-p", "int8", "-c", tmp_path / "s.npz", "-o", tmp_path / "b", "-q",
        "--keep-float", "conv1", "--keep-float", "y", "--repair", "none", "--max-drop", "0.5",
        "--search-minutes", "2", "--calib-method", "mse, min-max", "--calib-samples", "9", "--calib-skip-bad", "0",
        "--golden", "synthetic",
    )  # fmt: skip
    assert done.code == 0, done.err
    recipe = json.loads((tmp_path / "b" / "manifest.json").read_text())["recipe"]
    assert recipe["keep_float"] == ["conv1", "y"] and recipe["repair"] == []
    assert (recipe["max_drop"], recipe["search_minutes"], recipe["golden_inputs"]) == (0.5, 2, "synthetic")
    assert recipe["calibration"]["methods"] == ["mse", "min-max"] and recipe["calibration"]["samples"] == 9
    wrong = (
        (("--metric", "accuracy"), 2, "give --eval PATH"),
        (("--golden", "synthetic", "--no-golden"), 2, "--no-golden that it carries none"),
        (("--max-drop", "-1"), 2, "max-drop"),
        (("--search-minutes", "0"), 2, "search-minutes"),
        (("--min-speedup", "1"), 2, "min-speedup"),
        (("-p", "int8", "--min-speedup", "2"), 2, "--min-speedup is for --precision auto"),
        (("--repair", "wish"), 8, "repair"),
    )
    for arguments, code, words in wrong:
        result = edgebig("compile", folder / "conv.onnx", *arguments, "-o", tmp_path / "c")
        assert result.code == code and words in result.err and not (tmp_path / "c").exists()


def test_what_the_gpu_runs_beside_a_dla(edgebig: Run, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    build = {"dla_core": 1, "gpu_fallback": False}
    for precision in ("int8", "fp16"):
        recipe = Recipe.of("the request", {"target": "agx-orin-64gb", "precision": precision, "build": build})
        samples = samples_for(conv_net(), 8)
        package.compile(folder / "conv.onnx", recipe=recipe, calibration=samples, out=tmp_path / precision)
    both = edgebig("inspect", tmp_path / "int8", "--plan").out
    assert both.startswith("part model: int8 for agx-orin-64gb")
    assert "layers; without the GPU, the others fail the build" in both
    assert "edgebig_plan" in edgebig("inspect", tmp_path / "int8", "--plan", "--json").json
    alone = edgebig("inspect", tmp_path / "fp16", "--plan").out.splitlines()
    assert alone[0] == "part model: DLA core 1 takes 7 of 10 layers; without the GPU, the others fail the build"
    assert [line.split()[1] for line in alone[2:]] == ["Cast", "GlobalAveragePool", "Cast"]
    facts = edgebig("inspect", tmp_path / "fp16", "--plan", "--json").json
    assert set(facts) == {"dla"} and facts["dla"]["model"]["core"] == 1
