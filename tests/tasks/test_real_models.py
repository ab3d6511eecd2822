"""What the tasks make of pictures, fed to real trained models, gives the right answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebig.recipe import Recipe
from edgebig.tasks.vision import classify, prepare

ort = pytest.importorskip("onnxruntime")

IMAGENET = {"banana_0": 954, "orange_0": 950, "granny_smith_0": 948, "strawberry_0": 949, "polar_bear": 296}


def run(model: Path, picture: Path, recipe: str) -> list[np.ndarray]:
    """The outputs of the original model on a picture prepared as the recipe says."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    how = Recipe.load(recipe).preprocess
    assert how is not None
    return session.run(None, {session.get_inputs()[0].name: prepare(picture, how)})


def test_squeezenet_names_what_is_on_the_picture(shared_data: Path) -> None:
    model = shared_data / "squeezenet" / "squeezenet1.1_fp32.onnx"
    for name, index in IMAGENET.items():
        (probabilities,) = run(model, shared_data / "images" / f"{name}.jpg", "imagenet-caffe")
        (best,) = classify(probabilities)
        assert index in [score.index for score in best], (name, best)


def test_ultraface_finds_the_faces(shared_data: Path) -> None:
    model = shared_data / "ultraface" / "version-RFB-320.onnx"
    faces = {}
    for name in ("humans_5", "humans_7", "humans_0", "trail_0"):
        scores, _ = run(model, shared_data / "images" / f"{name}.jpg", "ultraface")
        faces[name] = float(scores[0, :, 1].max())
    assert min(faces["humans_5"], faces["humans_7"]) > 0.9, faces
    assert max(faces["humans_0"], faces["trail_0"]) < 0.5, faces  # seen from behind; an empty path


def test_twinlitenet_sees_a_street_to_drive_on(shared_data: Path) -> None:
    model = shared_data / "twinlitenet" / "best.onnx"
    drivable, lines = run(model, shared_data / "images" / "city_0.jpg", "twinlitenet")
    area = drivable.argmax(axis=1)[0].astype(bool)
    assert area.shape == (360, 640)
    assert area[180:].mean() > 5 * area[:120].mean()  # the street lies in the lower half
    assert 0 < lines.argmax(axis=1).mean() < 0.2
