"""Calibration as compile does it: methods side by side, golden inputs that stay private, state, resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runner import run_process
from nets import Sample, model, node, normal
from PIL import Image
from textnets import net

import edgebig
from edgebig.bundle import Bundle
from edgebig.calibrate import METHODS
from edgebig.errors import RecipeError, UsageError
from edgebig.recipe import Recipe
from edgebig.runtime import golden, load
from edgebig.stages import Event

DATA = normal(48, 8, seed=9)


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBIG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """x batch x 8 -> 16 hidden units -> y batch x 4."""
    made = model(
        [node("Gemm", "x a b", "h"), node("Relu", "h", "r"), node("Gemm", "r c d", "y")],
        {"x": ["batch", 8]},
        ["y"],
        {"a": normal(8, 16), "b": normal(16), "c": normal(16, 4), "d": normal(4)},
    )
    onnx.save(made, tmp_path / "tiny.onnx")
    return tmp_path / "tiny.onnx"


def recipe(**fields: Any) -> Recipe:
    calibration = {"samples": 40, **fields.pop("calibration", {})}
    return Recipe.of("test", {"precision": "int8", "calibration": calibration, **fields})


def compiled(path: Path, name: str, data: Any = None, **options: Any) -> Bundle:
    if data is None:
        data = path.parent / "data.npy"
        if not data.exists():
            np.save(data, DATA)
    asked = options.pop("recipe", None) or recipe()
    return edgebig.compile(path, recipe=asked, calibration=data, out=path.parent / name, **options)


def report_of(bundle: Bundle) -> dict[str, Any]:
    file = bundle.part().calibration
    assert file is not None
    found = json.loads(bundle.file(file).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def scales(bundle: Bundle) -> dict[str, float]:
    """Every scale of the portable graph, by name."""
    graph = onnx.load(bundle.file(bundle.part().graph)).graph
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer if i.name.endswith("/scale")}
    assert arrays
    return {name: array.tolist() for name, array in arrays.items()}


def test_all_methods_in_one_compile(path: Path) -> None:
    methods = ["entropy", "min-max", "mse", "percentile", "average-min-max"]
    bundle = compiled(path, "all", recipe=recipe(calibration={"methods": methods}))
    report = report_of(bundle)
    assert report["methods"] == methods and report["method"] == "entropy"
    assert report["samples"] == 40
    for found in report["tensors"].values():
        assert list(found["ranges"]) == methods
    # the first is used: alone it gives the same graph, and another method another
    alone = compiled(path, "alone", recipe=recipe(calibration={"methods": ["entropy"]}))
    assert scales(alone) == scales(bundle)
    assert scales(compiled(path, "other")) != scales(bundle)
    assert set(methods) == set(METHODS)


@pytest.mark.parametrize("method", ["min-max", "entropy", "percentile", "mse", "average-min-max"])
def test_scales_do_not_depend_on_how_the_data_was_batched(method: str, path: Path) -> None:
    asked = recipe(calibration={"methods": [method]})
    np.savez(path.parent / "rows.npz", x=DATA)
    np.savez(path.parent / "batches.npz", x=DATA[:32].reshape(2, 16, 8))
    np.savez(path.parent / "same.npz", x=DATA[:32])
    ones = scales(compiled(path, "ones", [{"x": row[None]} for row in DATA[:32]], recipe=asked))
    assert scales(compiled(path, "batch", [{"x": DATA[:32]}], recipe=asked)) == ones
    assert scales(compiled(path, "uneven", [{"x": DATA[:5]}, {"x": DATA[5:32]}], recipe=asked)) == ones
    assert scales(compiled(path, "npz", path.parent / "same.npz", recipe=asked)) == ones
    assert scales(compiled(path, "batched", path.parent / "batches.npz", recipe=asked)) == ones


def arrays_in(bundle: Bundle) -> Iterator[bytes]:
    """Every file of the bundle, and the members of its archives."""
    for file in bundle.path.rglob("*"):
        if file.is_file():
            yield file.read_bytes()
            if file.suffix == ".npz":
                with np.load(file) as kept:
                    yield from (kept[name].tobytes() for name in kept.files)


@pytest.mark.parametrize("kind", ["held-out", "synthetic", "private"])
def test_what_the_bundle_keeps_of_the_data(kind: str, path: Path) -> None:
    bundle = compiled(path, "b", recipe=recipe(golden_inputs=kind))
    bundle.verify()
    everything = list(arrays_in(bundle))
    held = [row for row in DATA if any(row.tobytes() in data for data in everything)]
    assert len(held) == (4 if kind == "held-out" else 0)
    pairs = golden(bundle)
    assert len(pairs) == (0 if kind == "private" else 4)
    assert (bundle.part().golden is None) == (kind == "private")
    assert bundle.part().similarity  # it was compared all the same
    with load(bundle.path) as session:
        assert session.run({"x": DATA[:2]})["y"].shape == (2, 4)


def test_the_command_line_on_a_bundle_without_golden_inputs(path: Path) -> None:
    bundle = compiled(path, "b", recipe=recipe(golden_inputs="private"))
    inspected = run_process("inspect", bundle.path)
    assert inspected.code == 0, inspected.err
    np.save(path.parent / "x.npy", DATA[:1])
    ran = run_process("run", bundle.path, "-i", f"x={path.parent / 'x.npy'}")
    assert ran.code == 0, ran.err
    measured = run_process("bench", bundle.path, "--seconds", "0.1")
    assert "Traceback" not in measured.err
    assert measured.code == 0 or len(measured.err.strip().splitlines()) == 1


def test_a_state_output_that_does_not_exist(path: Path) -> None:
    with pytest.raises(RecipeError, match=r"state: model has no such output: x: nope: it has y") as caught:
        compiled(path, "b", recipe=recipe(state={"x": "nope"}))
    assert "\n" not in str(caught.value)
    assert not (path.parent / "b").exists()


def recurrent(folder: Path) -> Path:
    """state' = 0.5 state + x: on ones it grows to 2, from zeros each time it stays 1."""
    made = model(
        [
            node("Gemm", "state half zero", "kept"),
            node("Gemm", "x one zero", "now"),
            node("Add", "kept now", "stateN"),
            node("Gemm", "stateN one zero", "y"),
        ],
        {"x": ["batch", 2], "state": ["batch", 2]},
        ["y", "stateN"],
        {"half": np.eye(2, dtype=np.float32) / 2, "one": np.eye(2, dtype=np.float32), "zero": np.zeros(2, np.float32)},
    )
    onnx.save(made, folder / "recurrent.onnx")
    return folder / "recurrent.onnx"


def test_a_state_is_carried_through_compile(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.ones((80, 2), np.float32))
    asked = recipe(calibration={"samples": 76})
    bundle = compiled(recurrent(tmp_path), "b", tmp_path / "rows.npz", recipe=asked)
    assert report_of(bundle)["tensors"]["stateN"]["max"] == pytest.approx(2, rel=1e-6)
    zeros = {"state": np.zeros((1, 2), np.float32)}
    given: list[Sample] = [{"x": np.ones((1, 2), np.float32), **zeros} for _ in range(80)]
    plain = compiled(recurrent(tmp_path), "p", given, recipe=asked)
    assert report_of(plain)["tensors"]["stateN"]["max"] == pytest.approx(1, rel=1e-6)


class _StopAt:
    """Interrupts at a calibration sample."""

    def __init__(self, sample: int) -> None:
        self._text = f"{sample} samples"

    def __call__(self, event: Event) -> None:
        if self._text in repr(event):
            raise KeyboardInterrupt


@pytest.mark.parametrize("cache", ["on", "off"])
def test_an_interrupted_compile_continues(path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgebig.calibrate.checkpoint._EVERY_SECONDS", 0.0)
    if cache == "off":
        monkeypatch.setenv("EDGEBIG_CACHE", "off")
    asked = recipe(calibration={"methods": ["entropy", "min-max"]})
    with pytest.raises(KeyboardInterrupt):
        compiled(path, "b", recipe=asked, listener=_StopAt(17))
    kept = list(path.parent.glob("cache/calibration/*.npz"))
    assert len(kept) == (1 if cache == "on" else 0)
    assert not (path.parent / "b").exists()
    resumed = compiled(path, "b", recipe=asked)
    monkeypatch.setenv("EDGEBIG_CACHE", "off")
    fresh = compiled(path, "c", recipe=asked)
    assert scales(resumed) == scales(fresh) and report_of(resumed) == report_of(fresh)


def test_kept_statistics_serve_only_what_they_were_made_for(path: Path) -> None:
    """Which tensors are counted depends on the recipe: what was kept for one must not pass for another."""
    cache = path.parent / "cache" / "calibration"
    for number, keep_float in enumerate([(), ("*",), ("h",)], start=1):
        asked = recipe(calibration={"methods": ["entropy"]}, keep_float=keep_float)
        with_cache = compiled(path, f"a{number}", recipe=asked)
        again = compiled(path, f"b{number}", recipe=asked)
        assert report_of(with_cache) == report_of(again)
        assert len(list(cache.glob("*.npz"))) == number
    before = report_of(compiled(path, "c"))["tensors"]["x"]["max"]
    np.save(path.parent / "data.npy", DATA * 2)
    assert report_of(compiled(path, "d"))["tensors"]["x"]["max"] == 2 * before


def test_kept_statistics_know_the_model_s_processor(tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers")
    pytest.importorskip("optimum.exporters.onnx")
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    folder = tmp_path / "resnet"
    hf.ResNetForImageClassification(config).eval().save_pretrained(folder)
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    largest = []
    for spread in (0.5, 0.25):
        processor = hf.ViTImageProcessor(size={"height": 32, "width": 32}, image_std=[spread] * 3)
        processor.save_pretrained(folder)
        bundle = edgebig.compile(
            folder, recipe=recipe(golden=1), calibration=tmp_path / "pictures", out=tmp_path / str(spread)
        )
        largest.append(report_of(bundle)["tensors"]["pixel_values"]["max"])
    assert largest[1] == pytest.approx(2 * largest[0])


def test_made_inputs_that_do_not_fit_say_to_give_shapes(tmp_path: Path) -> None:
    """Rows of a prime number of elements, at which no trial arrives."""
    rows = net("float[N,M] x", "float[K,1009] y", "r = Reshape(x, s) y = Relu(r)", {"s": np.array([-1, 1009])})
    onnx.save(rows, tmp_path / "rows.onnx")
    with pytest.raises(UsageError, match=r"does not take made inputs of the shapes .*: give --shapes that it takes"):
        edgebig.compile(tmp_path / "rows.onnx", out=tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.onnx"]


def test_a_recurrent_models_length_is_found_beside_its_state(shared_data: Path, tmp_path: Path) -> None:
    """It pads its sound by reflection, which one sample is too short for; its state's batch looks alike."""
    bundle = edgebig.compile(shared_data / "silero-vad" / "silero_vad.onnx", out=tmp_path / "b")
    assert bundle.part().profiles["state"]["opt"] == [2, 1, 128] and bundle.part().profiles["input"]["opt"][1] >= 100
