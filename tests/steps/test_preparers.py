"""Recordings become samples by the recipe or by the model's own feature extractor."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from nets import net, node

import edgebig
from edgebig.calibrate import Samples, open_samples
from edgebig.errors import CalibrationError, RecipeError
from edgebig.recipe import Recipe
from edgebig.request import Request, Shapes
from edgebig.source import Source, SourcePart, processors
from edgebig.spec import Dim
from edgebig.steps.preparers import preparers_for
from edgebig.steps.work import PartWork
from edgebig.tasks.speech import frames, read_wav

SOUND = np.arange(-4, 5) / 16


def write_wav(path: Path, samples: Any, rate: int = 16000) -> Path:
    with wave.open(str(path), "wb") as stream:
        stream.setparams((1, 2, rate, 0, "NONE", ""))
        stream.writeframes((np.asarray(samples) * 2**15).astype("<i2").tobytes())
    return path


def opened(path: Path, shape: list[Dim], audio: dict[str, Any] | None, name: str = "x", sound: Any = None) -> Samples:
    graph = net([node("Relu", name, "y")], {name: shape}, ["y"])
    part = SourcePart("model", graph, path)
    source = Source("onnx", "m", (part,), sound=sound)
    request = Request.resolve(Recipe.of("here", {"audio": audio}), "cpu", None, Shapes(), {})
    return open_samples(path, graph.inputs, 100, preparers_for(PartWork(part, graph, {}), source, request))


@pytest.mark.parametrize(
    ("shape", "audio", "expected"),
    [
        ([1, 6], {"frame": 4, "context": 2}, [[[0, 0, *SOUND[:4]]], [[*SOUND[2:8]]], [[*SOUND[6:], 0, 0, 0]]]),
        ([1, 1, 6], {"frame": 6}, [[[[*SOUND[:6]]]], [[[*SOUND[6:], 0, 0, 0]]]]),
        (["samples"], {"frame": None}, [[*SOUND]]),
        (["batch", "samples"], {"input": "x"}, [[[*SOUND]]]),
    ],
)
def test_the_recipe_cuts_frames(tmp_path: Path, shape: list[Dim], audio: dict[str, Any], expected: list[Any]) -> None:
    samples = opened(write_wav(tmp_path / "a.wav", SOUND), shape, {"rate": 16000, **audio})
    assert [sample["x"].tolist() for _, sample in samples] == expected
    assert [where for where, _ in samples] == [f"a.wav[{i}]" for i in range(len(expected))]


def test_a_recording_that_does_not_fit_the_recipe(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", SOUND, rate=8000)
    with pytest.raises(CalibrationError, match=r"a\.wav: the recording .* has 8000 samples a second, expected 16000"):
        list(opened(path, [1, 6], {"rate": 16000, "frame": 6}))
    with pytest.raises(CalibrationError, match=r"sample a\.wav\[0\]: input 'x' needs float32 1x6, found 1x4"):
        list(opened(path, [1, 6], {"rate": 8000, "frame": 4}))
    with pytest.raises(RecipeError, match="name the input that takes sound, found 'y'; model has x: float32 1x6"):
        opened(path, [1, 6], {"rate": 8000, "input": "y"})
    with pytest.raises(RecipeError, match=r"audio\.context needs audio\.frame"):
        opened(path, [1, 6], {"rate": 8000, "context": 2})
    with pytest.raises(CalibrationError, match=r"holds recordings, .*: add an audio section to the recipe"):
        opened(path, [1, 6], None)


def test_a_model_that_brings_its_feature_extractor(tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers")
    hf.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "wav2vec2")
    sound = processors.load(str(tmp_path / "wav2vec2"), tmp_path / "out", None).sound
    assert sound is not None and (sound.rate, sound.longest) == (16000, 480000)
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
    tone = np.sin(np.arange(20000) / 5) / 2
    path = write_wav(tmp_path / "a.wav", tone)
    ((where, whole),) = opened(path, ["batch_size", "sequence_length"], None, "input_values", sound)
    assert where == "a.wav[0]"
    np.testing.assert_allclose(whole["input_values"][0], (tone - tone.mean()) / tone.std(), atol=1e-3)
    pieces = [s["input_values"].shape for _, s in opened(path, [1, 8000], None, "input_values", sound)]
    assert pieces == [(1, 8000)] * 3


def test_long_recordings_are_cut_for_whisper(tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers")
    hf.WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(tmp_path / "whisper")
    sound = processors.load(str(tmp_path / "whisper"), tmp_path / "out", None).sound
    assert sound is not None and sound.longest == 16000
    path = write_wav(tmp_path / "a.wav", np.sin(np.arange(40000) / 5) / 2)
    samples = [s["input_features"] for _, s in opened(path, ["batch_size", 8, 100], None, "input_features", sound)]
    assert [(s.shape, s.dtype.name) for s in samples] == [((1, 8, 100), "float32")] * 3


def test_a_voice_detector_is_calibrated_with_a_recording(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "silero-vad"
    bundle = edgebig.compile(
        folder / "silero_vad.onnx",
        out=tmp_path / "vad.bundle",
        recipe=Recipe.load("silero-vad-16k").with_calibration({"samples": 60}).changed(keep_float=(), repair=()),
        precision="int8",
        calibration=folder / "test.wav",
    )
    kept = json.loads((bundle.path / "calibration" / "model.ranges.json").read_text())
    assert kept["reading"] == {"asked": 92, "read": 92, "used": 92, "refused": []}
    cut = frames(read_wav(folder / "test.wav", 16000), 512, 64)[:92]
    calibrated = cut[32:]  # a stretch of the recording is held out
    (sound,) = (v for k, v in kept["ranges"].items() if k.endswith("stft/Unsqueeze_output_0"))
    assert [sound["min"], sound["max"]] == [calibrated.min(), calibrated.max()]


def test_skipped_samples_are_reported_in_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    onnx.save(tiny.mlp(), tmp_path / "m.onnx")
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    for i in range(40):
        np.save(tmp_path / "data" / f"{i:02}.npy", rows[i : i + 1, : 7 if i == 20 else 8])
    found = "calibration sample 20.npy[0]: input 'x' needs float32 batchx8, found 1x7"

    def compiled(skip_bad: int) -> edgebig.Bundle:
        recipe = Recipe().with_calibration({"skip_bad": skip_bad})
        data = tmp_path / "data"
        return edgebig.compile(
            tmp_path / "m.onnx", out=tmp_path / "b", recipe=recipe, precision="int8", calibration=data
        )

    with pytest.raises(CalibrationError) as caught:
        compiled(0)
    assert str(caught.value) == found
    bundle = compiled(1)
    kept = json.loads((bundle.path / "calibration" / "model.ranges.json").read_text())
    assert kept["reading"] == {
        "asked": 132,
        "read": 40,
        "used": 39,
        "refused": [{"where": "20.npy[0]", "reason": found}],
    }
    declined = [line for stage in bundle.manifest.stages for line in stage.declined]
    assert f"model: left out, as --calib-skip-bad allows: {found}" in declined
