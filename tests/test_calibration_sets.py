"""The ready calibration sets, and the script that makes sets."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgebig.errors import InputError
from edgebig.resources import data_folder
from edgebig.spec import TensorSpec

FOLDER = data_folder("calibration")


@pytest.fixture(scope="module")
def make_sets() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("make_sets", FOLDER.parent / "scripts" / "make_calibration_sets.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_ready_sentences_are_what_the_script_makes(make_sets: ModuleType) -> None:
    ready = (FOLDER / "sentences.txt").read_text(encoding="utf-8").splitlines()
    sources = [f.read_text(encoding="utf-8").splitlines() for f in sorted((FOLDER / "sources").glob("*.txt"))]
    assert ready == make_sets.interleave(sources)
    assert len(ready) == len(set(ready)) == sum(map(len, sources)) >= 190
    shown = (FOLDER.parent / "examples" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert len(shown) >= 40 and not set(shown) & set(ready)  # what is searched was not calibrated with


def test_a_prefix_of_the_set_holds_every_language(make_sets: ModuleType) -> None:
    assert make_sets.interleave([["a1", "a2", "a3", "a4"], ["b1", "", " b2 "]]) == ["a1", "b1", "a2", "a3", "b2", "a4"]
    half = set((FOLDER / "sentences.txt").read_text(encoding="utf-8").splitlines()[:100])
    for file in (FOLDER / "sources").glob("*.txt"):
        assert half & set(file.read_text(encoding="utf-8").splitlines()), file.name


def test_the_ready_shapes_and_sounds_are_what_the_script_makes(make_sets: ModuleType, tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    make_sets.write_shapes(tmp_path / "shapes")
    make_sets.write_sounds(tmp_path / "sounds")
    for name, largest in (("shapes", 500_000), ("sounds", 200_000)):
        ready, made = (sorted((folder / name).iterdir()) for folder in (FOLDER, tmp_path))
        assert [f.name for f in ready] == [f.name for f in made] and len(ready) >= 8
        assert sum(f.stat().st_size for f in ready) < largest
    for file in sorted((tmp_path / "sounds").iterdir()):
        made_samples, ready_samples = (
            np.frombuffer((folder / "sounds" / file.name).read_bytes()[44:], "<i2").astype(int)
            for folder in (tmp_path, FOLDER)
        )
        assert np.abs(made_samples - ready_samples).max() <= 1  # Fourier transforms round differently by machine
    for file in sorted((tmp_path / "shapes").iterdir()):
        pixels = [
            np.asarray(image_module.open(folder / "shapes" / file.name), np.int64) for folder in (tmp_path, FOLDER)
        ]
        assert pixels[0].shape == (192, 256, 3) and np.abs(pixels[0] - pixels[1]).mean() < 1


def test_the_pictures_chosen_differ(make_sets: ModuleType, tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    for name, gray in (("a", 0), ("b", 1), ("c", 128), ("d", 129), ("e", 254), ("f", 255)):
        image_module.new("RGB", (16, 16), (gray,) * 3).save(tmp_path / f"{name}.png")
    assert [f.name for f in make_sets.choose_pictures(tmp_path, 3)] == ["a.png", "c.png", "f.png"]
    assert len(make_sets.choose_pictures(tmp_path, 99)) == 6
    shutil.rmtree(tmp_path)
    with pytest.raises(InputError, match="holds no pictures"):
        make_sets.choose_pictures(tmp_path, 3)


def test_voice_samples_carry_the_state(make_sets: ModuleType, tmp_path: Path) -> None:
    import wave

    class Counter:
        """A detector whose state counts the frames."""

        inputs = [TensorSpec("input", "float32", (1, 576)), TensorSpec("state", "float32", (2, 1, 128))]

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"output": np.zeros((1, 1), np.float32), "stateN": inputs["state"] + 1}

    with wave.open(str(tmp_path / "a.wav"), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(16000)
        stream.writeframes(np.arange(512 * 4, dtype="<i2").tobytes())
    samples = make_sets.voice_samples(Counter(), [tmp_path / "a.wav"] * 2, 4)
    assert samples["input"].shape == (4, 1, 576) and samples["state"].shape == (4, 2, 1, 128)
    # Of the 8 frames 0, 2, 5 and 7 are kept; the second recording starts afresh.
    assert samples["state"][:, 0, 0, 0].tolist() == [0, 2, 1, 3]
    assert (samples["input"][1, 0] * 32768).tolist() == list(range(960, 1536))
