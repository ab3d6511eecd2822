"""The whole flow: tiny models for every kind of target and precision, modules, and errors that leave nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import Sample, attention_net, conv_net, model, net, node, normal, run, samples_for
from tiny import add_one, mlp, two_inputs

import edgebig
from edgebig.bundle import Bundle
from edgebig.calibrate import Ranges
from edgebig.errors import (
    AccuracyError,
    BuildError,
    CalibrationError,
    EdgebigError,
    OutputError,
    PrecisionError,
    SourceError,
    UsageError,
)
from edgebig.graph import Graph
from edgebig.recipe import Recipe
from edgebig.runtime import golden, load_original
from edgebig.stages import NAMES, Event

pytest.importorskip("tensorrt_rtx_bindings")


def wide_mlp() -> onnx.ModelProto:
    """x batch x 128 -> 64 -> y batch x 8; the first weight divides into blocks of 128."""
    return model(
        [node("Gemm", "x a b", "h"), node("Relu", "h", "r"), node("Gemm", "r c d", "y")],
        {"x": ["batch", 128]},
        ["y"],
        {"a": normal(128, 64), "b": normal(64), "c": normal(64, 8), "d": normal(8)},
    )


def written(proto: onnx.ModelProto | Graph, folder: Path) -> Path:
    path = folder / "tiny.onnx"
    if isinstance(proto, Graph):
        proto.save(path)
    else:
        onnx.save(proto, path)
    return path


def rows(count: int, *shape: int, name: str = "x", seed: int = 0) -> list[Sample]:
    random = np.random.default_rng(seed)
    return [{name: random.standard_normal((1, *shape)).astype(np.float32)} for _ in range(count)]


MATRIX = [
    ("cpu", "fp32"),
    ("cpu", "int8"),
    ("cpu", "auto"),
    ("cpu-arm64", "fp32"),
    ("cpu-arm64", "int8"),
    ("l4", "fp32"),
    ("l4", "fp16"),
    ("l4", "bf16"),
    ("l4", "int8"),
    ("l4", "fp8"),
    ("l4", "int4"),
    ("l4", "auto"),
    ("a100", "fp16"),
    ("a100", "bf16"),
    ("a100", "int8"),
    ("a100", "int4"),
    ("t4", "fp16"),
    ("t4", "int8"),
    ("h100", "fp16"),
    ("h100", "bf16"),
    ("h100", "int8"),
    ("h100", "fp8"),
    ("h100", "int4"),
    ("agx-orin-64gb", "fp16"),
    ("agx-orin-64gb", "bf16"),
    ("agx-orin-64gb", "int8"),
    ("agx-orin-64gb", "int4"),
    ("agx-orin-64gb", "auto"),
]
HELD_AS = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8",
    "fp8": "float8e4m3fn",
    "int4": "int4",
}


@pytest.mark.parametrize(("target", "precision"), MATRIX)
def test_a_target_and_a_precision(target: str, precision: str, tmp_path: Path) -> None:
    path = written(wide_mlp(), tmp_path)
    data = rows(24, 128) if precision in {"int8", "fp8", "auto", "fp16"} else None
    bundle = edgebig.compile(path, target=target, precision=precision, calibration=data, out=tmp_path / "b")
    bundle.verify()
    part, manifest = bundle.part(), bundle.manifest
    assert manifest.precision == precision and manifest.target["name"] == target
    assert [(s.name, s.dtype, s.shape) for s in (*part.inputs, *part.outputs)] == [
        ("x", "float32", ("batch", 128)),
        ("y", "float32", ("batch", 8)),
    ]
    held = part.precision
    if precision == "auto":
        # near enough in INT8 everywhere; on this processor so small a net may still be faster in float32
        slower = any("times float32's speed): not taken" in d for stage in manifest.stages for d in stage.declined)
        assert part.quantized != slower and ("int8" in held) == part.quantized and (target == "cpu" or not slower)
    else:
        assert max(held, key=held.__getitem__).replace("_", "") == HELD_AS[precision]
        assert part.quantized == (precision in {"int8", "fp8", "int4"})
    ahead, host = target in {"l4", "a100", "t4"}, target == "cpu"
    assert [e.kind for e in part.engines] == (["tensorrt-rtx"] if ahead else ["onnxruntime"] if host else [])
    assert list(part.profiles) == ["x"] and part.profiles["x"]["opt"] == [1, 128]
    if precision == "bf16":
        assert part.similarity == {}
    else:
        least = {"fp32": 0.999999, "fp16": 0.9999, "int4": 0.95}.get(precision, 0.99)
        assert part.similarity["y"]["cosine"] > least
    if not host:
        return
    with edgebig.load(tmp_path / "b") as session:
        for inputs, expected in golden(bundle):
            found = session.run(inputs)["y"]
            assert np.abs(found - expected["y"]).max() < 0.15 * np.abs(expected["y"]).max()


@pytest.mark.parametrize("make", [add_one, mlp, two_inputs, conv_net, attention_net])
def test_fp32_is_the_model_itself(make: Any, tmp_path: Path) -> None:
    made = make()
    path = written(made, tmp_path)
    bundle = edgebig.compile(path, target="cpu", out=tmp_path / "b")
    assert all(s["max_relative"] <= 1e-5 for s in bundle.part().similarity.values())
    graph = Graph.load(path)
    (sample,) = samples_for(graph, 1, seed=5, batch=3)
    with edgebig.load(tmp_path / "b") as session:
        for name, value in session.run(sample).items():
            np.testing.assert_allclose(value, run(graph, sample)[name], rtol=1e-4, atol=1e-5)


def test_events_come_in_order_and_the_manifest_says_how_it_went(tmp_path: Path) -> None:
    heard: list[Event] = []
    path = written(conv_net(), tmp_path)
    bundle = edgebig.compile(
        path, target="cpu", precision="int8", calibration=rows(8, 3, 8, 8), out=tmp_path / "b", listener=heard.append
    )
    assert (
        [e.number for e in heard if e.kind == "start"]
        == [1, 2, 3, 4, 5, 6]
        == [e.number for e in heard if e.kind == "end"]
    )
    numbers = [e.number for e in heard]
    assert numbers == sorted(numbers) and {e.total for e in heard} == {6}
    stages = bundle.manifest.stages
    assert tuple(s.name for s in stages) == NAMES
    assert all(s.seconds >= 0 and s.peak_memory_bytes > 10 << 20 for s in stages)
    for stage in stages:
        assert stage.notes == tuple(e.text for e in heard if e.stage == stage.name and e.kind == "note")
        assert stage.declined == tuple(e.text for e in heard if e.stage == stage.name and e.kind == "declined")
    versions = bundle.manifest.versions
    assert versions["onnx"] == onnx.__version__ and {"edgebig", "python", "numpy", "onnxruntime"} <= set(versions)
    source = bundle.manifest.source
    assert (source["kind"], source["name"]) == ("onnx", "tiny") and len(source["sha256"]) == 64
    part = bundle.part()
    assert set(part.similarity) == {"y"} and set(part.similarity["y"]) == {
        "cosine",
        "sqnr_db",
        "max_abs",
        "max_relative",
    }
    assert 0.99 < part.similarity["y"]["cosine"] <= 1
    assert Bundle.open(tmp_path / "b").manifest == bundle.manifest
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["recipe"]["precision"] == "int8"


def test_golden_inputs_are_held_out_of_the_calibration(tmp_path: Path) -> None:
    """Each sample holds its own number, so that ranges tell which samples were calibrated with."""
    given: list[int] = []

    def numbered() -> Iterator[Sample]:
        for i in range(1000):
            given.append(i)
            yield {"x": np.full((1, 4), 1000 - i, np.float32)}

    path = written(
        net(
            [node("Relu", "x", "r"), node("MatMul", "r w", "y")],
            {"x": ["n", 4]},
            ["y"],
            {"w": np.eye(4, dtype=np.float32)},
        ),
        tmp_path,
    )
    recipe = Recipe(calibration={"samples": 20}, golden=3)
    bundle = edgebig.compile(
        path, target="cpu", precision="int8", recipe=recipe, calibration=numbered(), out=tmp_path / "b"
    )
    assert given == list(range(23))  # read once, and no further than asked
    held = [1000 - int(inputs["x"][0, 0]) for inputs, _ in golden(bundle)]
    assert held == [0, 8, 16]
    ranges = Ranges.load(bundle.file(bundle.part().calibration or ""))
    assert ranges.samples == 20
    assert (ranges.by_tensor["r"].min, ranges.by_tensor["r"].max) == (1000 - 22, 999)  # the 0th, 1000, was not seen


def test_one_sample_serves_both_and_says_so(tmp_path: Path) -> None:
    path = written(mlp(), tmp_path)
    bundle = edgebig.compile(path, target="cpu", precision="int8", calibration=rows(1, 8), out=tmp_path / "b")
    (stage,) = (s for s in bundle.manifest.stages if s.name == "calibrate")
    assert stage.declined[0].startswith("the samples are too few") and len(golden(bundle)) == 1


def test_the_original_is_kept_where_asked(tmp_path: Path) -> None:
    path = written(mlp(), tmp_path)
    bundle = edgebig.compile(
        path, target="cpu", precision="int8", calibration=rows(8, 8), keep_original=True, out=tmp_path / "b"
    )
    (sample,) = rows(1, 8, seed=3)
    with load_original(tmp_path / "b") as session:
        np.testing.assert_allclose(session.run(sample)["y"], run(Graph.load(path), sample)["y"], rtol=1e-5, atol=1e-5)
    assert bundle.part().original == "graphs/model.original.onnx"
    without = edgebig.compile(path, target="cpu", out=tmp_path / "c")
    assert without.part().original is None


def test_auto_takes_the_cheapest_that_stays_near(tmp_path: Path) -> None:
    # a value that reaches 1e6 beside others of size one: INT8 loses the others, FP16 and FP32 do not
    graph = net(
        [node("MatMul", "x w", "h"), node("Mul", "h small", "y")],
        {"x": ["batch", 4]},
        ["y"],
        {"w": np.diag([1e-4, 1, 1, 1]).astype(np.float32), "small": np.ones(4, np.float32)},
    )
    path = written(graph, tmp_path)
    data = rows(24, 4)
    for sample in data:
        sample["x"][0, 0] *= 1000
    plain = edgebig.Recipe(repair=())  # SmoothQuant would mend just this
    bundle = edgebig.compile(
        path, target="agx-orin-64gb", recipe=plain, precision="auto", calibration=data, out=tmp_path / "b"
    )
    (stage,) = (s for s in bundle.manifest.stages if s.name == "quantize")
    assert "model: auto: no layer can be quantized within a loss of 0.005" in stage.declined
    assert any("auto took fp16" in line for line in stage.notes)
    assert not bundle.part().quantized and bundle.part().similarity["y"]["cosine"] > 0.999
    bundle = edgebig.compile(path, target="cpu", precision="auto", out=tmp_path / "c")
    (stage,) = (s for s in bundle.manifest.stages if s.name == "quantize")
    assert "model: auto: int8 was not tried: it needs --calib" in stage.declined


def test_shapes_freezing_and_profiles(tmp_path: Path) -> None:
    nodes = [node("Mul", "left factor", "sum")]
    path = written(model(nodes, {"left": ["batch", 2], "factor": [2]}, ["sum"]), tmp_path)
    bundle = edgebig.compile(
        path,
        target="l4",
        precision="fp16",
        out=tmp_path / "b",
        freeze={"factor": 2},
        min_shapes="left:1x2",
        opt_shapes="left:2x2",
        max_shapes="left:4x2",
    )
    part = bundle.part()
    assert [s.name for s in part.inputs] == ["left"]
    assert part.profiles == {"left": {"min": [1, 2], "opt": [2, 2], "max": [4, 2]}}
    bundle = edgebig.compile(path, target="cpu", shapes="left:3x2", out=tmp_path / "c")
    assert [s.shape for s in bundle.part().inputs] == [(3, 2), (2,)] and bundle.part().profiles == {}


def bad_cases(folder: Path) -> dict[str, tuple[type[EdgebigError], str, dict[str, Any]]]:
    good = str(written(mlp(), folder))
    custom = folder / "strange.onnx"
    onnx.save(model([node("Round", "x", "r"), node("Det", "r", "y")], {"x": [1, 3, 3]}, ["y"], opset=17), custom)
    (folder / "cut.onnx").write_bytes(Path(good).read_bytes()[:100])
    (folder / "text.onnx").write_text("hello")
    (folder / "empty").mkdir()
    nan = [{"x": np.full((1, 8), np.nan, np.float32)}]
    int8 = {"precision": "int8"}
    return {
        "no file": (SourceError, "no such file", {"model": folder / "none.onnx"}),
        "cut": (SourceError, "not an ONNX model|cut short|damaged", {"model": folder / "cut.onnx"}),
        "text": (SourceError, "not an ONNX model", {"model": folder / "text.onnx"}),
        "no such input": (UsageError, "--shapes: the model has no input 'z': its inputs are x", {"shapes": "z:1x8"}),
        "freeze nothing": (UsageError, "--freeze: the model has no input 'z'", {"freeze": {"z": 1}}),
        "rank": (UsageError, "x has 2 axes", {"shapes": "x:1x8x1"}),
        "fp8 on Orin": (PrecisionError, "has no FP8", {"precision": "fp8", "target": "agx-orin-64gb"}),
        "fp16 on cpu": (PrecisionError, "has no FP16", {"precision": "fp16"}),
        "no data": (CalibrationError, "needs samples of what model will see: give --calib", int8),
        "no samples": (CalibrationError, "no samples", {**int8, "calibration": []}),
        "empty folder": (CalibrationError, "is empty", {**int8, "calibration": folder / "empty"}),
        "nan": (CalibrationError, "sample 0: input 'x' holds NaN", {**int8, "calibration": nan}),
        "shape": (CalibrationError, "needs float32 batchx8, found 1x9", {**int8, "calibration": rows(2, 9)}),
        "ready": (
            CalibrationError,
            "no ready set 'ready:x': there is ready:sentences",
            {**int8, "calibration": "ready:x"},
        ),
        "refused": (
            BuildError,
            "refuses the Det node 'y'",
            {"model": custom, "target": "agx-orin-64gb", "precision": "fp16"},
        ),
        "no folder": (OutputError, "does not exist", {"out": folder / "deep" / "b"}),
        "module": (UsageError, "give example_inputs", {"model": object()}),
        "task": (UsageError, "which has no task", {"task": "text-classification"}),
    }


@pytest.mark.parametrize(
    "case",
    [
        "no file",
        "cut",
        "text",
        "no such input",
        "freeze nothing",
        "rank",
        "fp8 on Orin",
        "fp16 on cpu",
        "no data",
        "no samples",
        "empty folder",
        "nan",
        "shape",
        "ready",
        "refused",
        "no folder",
        "module",
        "task",
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    kind, message, options = bad_cases(tmp_path)[case]
    before = sorted(tmp_path.rglob("*"))
    asked = {"model": tmp_path / "tiny.onnx", "out": tmp_path / "b", **options}
    with pytest.raises(kind, match=message) as caught:
        edgebig.compile(asked.pop("model"), **asked)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bundle_is_replaced_only_with_force_and_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    path = written(mlp(), tmp_path)
    out = tmp_path / "b"
    first = edgebig.compile(path, target="cpu", out=out)
    with pytest.raises(OutputError, match="exists"):
        edgebig.compile(path, target="cpu", out=out)
    with pytest.raises(CalibrationError):
        edgebig.compile(path, target="cpu", precision="int8", calibration=rows(2, 9), out=out, force=True)
    Bundle.open(out).verify()
    assert Bundle.open(out).manifest == first.manifest
    edgebig.compile(path, target="cpu", precision="int8", calibration=rows(4, 8), out=out, force=True)
    assert Bundle.open(out).manifest.precision == "int8"


def test_an_overflow_in_fp16_shows_in_the_evidence(tmp_path: Path) -> None:
    """The golden inputs' square is 1e6, which FP16 has no number for, and no calibration sample reaches that far."""
    graph = net([node("Mul", "x x", "square"), node("Sqrt", "square", "y")], {"x": ["batch", 4]}, ["y"])
    data = [{"x": np.full((1, 4), 1000 if i % 8 == 0 else 1, np.float32)} for i in range(32)]
    path = written(graph, tmp_path)
    try:
        bundle = edgebig.compile(path, target="l4", precision="fp16", calibration=data, out=tmp_path / "b")
    except AccuracyError:
        return
    declined = [line for stage in bundle.manifest.stages for line in stage.declined]
    assert any("square" in line for line in declined) or bundle.part().similarity["y"]["cosine"] < 0.5


def test_a_constant_that_fp16_cannot_hold_stays_float32(tmp_path: Path) -> None:
    """1e5 is infinite in FP16, and its product with zero is not a number."""
    graph = net(
        [node("Mul", "x big", "m"), node("Mul", "m tiny", "y")],
        {"x": ["batch", 4]},
        ["y"],
        {"big": np.array(1e5, np.float32), "tiny": np.array([1e-5, 0, 1e-4, 1], np.float32)},
    )
    bundle = edgebig.compile(written(graph, tmp_path), target="l4", precision="fp16", out=tmp_path / "b")
    (stage,) = (s for s in bundle.manifest.stages if s.name == "quantize")
    assert any("stays float32" in line and "the constant big is 1e+05" in line for line in stage.declined)
    assert bundle.part().similarity["y"]["cosine"] > 0.9999
