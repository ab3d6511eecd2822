"""The camera loop on videos: made ones, and one of real streets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_models import run
from PIL import Image

cv2 = pytest.importorskip("cv2")

Compile = Callable[..., Path]


def video(path: Path, frames: list[np.ndarray[Any, Any]]) -> Path:
    """Writes frames in RGB as a file of motion JPEG."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def read(path: Path) -> list[np.ndarray[Any, Any]]:
    """Frames in RGB."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        taken, frame = capture.read()
        if not taken:
            return frames
        frames.append(frame[..., ::-1].astype(int))


@pytest.mark.parametrize("order", [[], ["--in-flight", 2, "--threads", 1], ["--in-flight", 0]])
def test_bright_halves_are_tinted_frame_by_frame(tiny_maps: Path, order: list[object], tmp_path: Path) -> None:
    """The bright half moves from left to right, so that a drawing on the wrong frame would show."""
    frames = []
    for number in range(12):
        frame = np.full((64, 128, 3), 40, np.uint8)
        frame[:, 64 * (number % 2) : 64 * (number % 2) + 64] = 220
        frames.append(frame)
    source, drawn = video(tmp_path / "in.avi", frames), tmp_path / "out.avi"
    printed = run("camera.py", tiny_maps, "--source", source, "--record", drawn, *order)
    assert re.match(
        r"12 frames in [\d.]+ s, [\d.]+ a second, on onnxruntime-cpu\nthe model alone: p50 [\d.]+ ms", printed
    )
    found = read(drawn)
    assert len(found) == 12
    for number, frame in enumerate(found):
        bright, dark = (
            frame[:, 64 * side + 16 : 64 * side + 48].mean(axis=(0, 1)) for side in (number % 2, 1 - number % 2)
        )
        np.testing.assert_allclose(bright, [110, 210, 150], atol=8)  # half of 220, half of the colour
        np.testing.assert_allclose(dark, 40, atol=8)


def test_the_class_is_written_into_the_picture(tiny_classifier: Path, tmp_path: Path) -> None:
    source = video(tmp_path / "in.avi", [np.full((64, 128, 3), (0, 255, 0), np.uint8)] * 3)
    run("camera.py", tiny_classifier, "--source", source, "--record", tmp_path / "out.avi")
    before, after = read(source)[0], read(tmp_path / "out.avi")[0]
    changed = np.abs(after - before).max(axis=2) > 60
    assert changed[:32].mean() > 0.02 and changed[40:].mean() == 0


def test_what_cannot_be_opened_or_written_is_one_line(tiny_maps: Path, tmp_path: Path) -> None:
    printed = run("camera.py", tiny_maps, "--source", tmp_path / "none.avi", fails=True)
    assert printed.splitlines()[-1].startswith("error: cannot open the camera or video ") and "Traceback" not in printed
    source = video(tmp_path / "in.avi", [np.zeros((64, 64, 3), np.uint8)])
    printed = run("camera.py", tiny_maps, "--source", source, "--record", tmp_path / "none" / "out.avi", fails=True)
    assert printed.splitlines()[-1].startswith("error: cannot write the video ") and "Traceback" not in printed


def test_lanes_of_a_street(bundle: Compile, shared_data: Path, tmp_path: Path) -> None:
    made = bundle("twinlitenet", shared_data / "twinlitenet" / "best.onnx", recipe="twinlitenet")
    with Image.open(shared_data / "images" / "city_0.jpg") as picture:
        street = np.asarray(picture.convert("RGB").resize((640, 360)))
    # the camera drives past: each frame is the picture, a little further
    source = video(tmp_path / "in.avi", [np.roll(street, 4 * number, axis=1) for number in range(3)])
    run("camera.py", made, "--source", source, "--record", tmp_path / "out.avi")
    before, after = read(source), read(tmp_path / "out.avi")
    assert len(after) == 3
    for old, new in zip(before, after, strict=True):
        changed = np.abs(new - old).max(axis=2) > 40
        assert changed[:120].mean() < 0.05 and changed[120:].mean() > 0.1  # the sky stays, the road is tinted
