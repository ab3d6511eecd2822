"""silero-vad in INT8 and FP16: in how many frames of a recording it decides as in FP32.

    python benchmarks/accuracy/speech.py [--json] [--quick]

The model and its recording lie in ../shared/data beside the checkout. Calibration reads the first 20 s of test.wav (625
frames, the state carried); the figure is of all 1875 frames, the frames after the first 20 s stand beside it. A frame
is speech above 0.5. Graphs for the L4 are run by ONNX Runtime without optimizations. The first table is what edgebig
does when asked for no more than the precision and the shipped recipe; the others show why the recipe is as it is:
methods of calibration, repairs, and layers kept in float. --quick leaves those out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import edgebig
from benchmarks.accuracy.figures import Figure, report, say
from benchmarks.common import ROOT, machine
from edgebig.errors import EdgebigError
from edgebig.graph import Executor, Graph
from edgebig.graph.execute import Level
from edgebig.recipe import Recipe
from edgebig.spec import TensorSpec
from edgebig.tasks.speech import VoiceDetector, read_wav

Array = np.ndarray[Any, Any]

DATA = ROOT.parent / "shared" / "data" / "silero-vad"
_MODEL = "silero_vad_op18_ifless.onnx"
_RATE = 16000
_CALIBRATION_SECONDS = 20
_SAMPLES = 512
_SPEECH = 0.5
_LIMIT = ">= 99.5"
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime")
_SPECTRUM = {"the transform": "*node_Conv_29", "the convolution after it": "*conv1d_1"}
"""The Fourier transform as a convolution, and what reads its magnitudes; the shipped recipe keeps both in float."""

_ALL: tuple[tuple[str, Any], ...] = (("keep_float", ()),)

METHODS = ("min-max", "average-min-max", "percentile", "entropy", "mse")


@dataclass(frozen=True)
class Way:
    """How the model is compiled.

    Attributes:
        group: of the tables.
        target, precision: edgebig's.
        title: what is special.
        recipe: fields that are not in the shipped recipe.
        method: of calibration.
    """

    group: str
    target: str
    precision: str
    title: str = ""
    recipe: tuple[tuple[str, Any], ...] = ()
    method: str = "min-max"

    @property
    def side(self) -> str:
        """For people."""
        return ", ".join(part for part in ("edgebig", self.precision, self.target, self.title) if part)


DEFAULTS = (
    Way("as asked", "cpu", "int8"),
    Way("as asked", "l4", "fp16"),
    Way("as asked", "l4", "int8"),
    Way("as asked", "l4", "fp8"),
    Way("as asked", "cpu", "auto"),
    Way("as asked", "l4", "auto"),
)


def variants() -> list[Way]:
    """What is tried beside the defaults."""
    found = []
    for target in ("cpu", "l4"):
        found += [Way("every layer, by method", target, "int8", m, _ALL, m) for m in METHODS]
        for m in ("min-max", "entropy"):
            found.append(Way("layers in float", target, "int8", f"{m}, both of the recipe", method=m))
            for title, name in _SPECTRUM.items():
                found.append(Way("layers in float", target, "int8", f"{m}, {title}", (("keep_float", (name,)),), m))
        for repairs in ((), ("smooth",), ("mse",), ("equalize",), ("bias",), ("smooth", "gptq", "bias")):
            recipe = (*_ALL, ("repair", repairs))
            found.append(Way("every layer, by repair", target, "int8", ", ".join(repairs) or "none", recipe))
    return found


class Detector:
    """An ONNX file as the voice detector wants its session."""

    def __init__(self, path: Path, level: Level) -> None:
        self.inputs: list[TensorSpec] = Graph.load(path).inputs
        self._executor = Executor(path, level, threads=1)

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return self._executor.run(inputs)

    def probabilities(self, samples: Array) -> Array:
        """Of speech, float32 [frames]."""
        return VoiceDetector(self).probabilities(samples)  # type: ignore[arg-type]


def first_seconds(source: Path, out: Path, seconds: int) -> Path:
    """The beginning of a WAV file."""
    with wave.open(str(source)) as read, wave.open(str(out), "wb") as write:
        write.setparams(read.getparams())
        write.writeframes(read.readframes(seconds * read.getframerate()))
    return out


def measure(ways: Sequence[Way], work: Path) -> list[Figure]:
    """Frames with the same decision, %, of each way."""
    samples = read_wav(DATA / "test.wav", _RATE)
    calibration = first_seconds(DATA / "test.wav", work / "calibration.wav", _CALIBRATION_SECONDS)
    expected = Detector(DATA / _MODEL, "all").probabilities(samples)
    figures = []
    for way in ways:
        say(way.side)
        what = f"silero-vad, {len(expected)} frames of test.wav: same decision as FP32, %: {way.group}"
        limit = _LIMIT if way.group == "as asked" else ""
        try:
            found = probabilities(way, calibration, work / "bundle", samples)
        except EdgebigError as error:
            figures.append(Figure(what, way.side, None, limit, note=str(error)[:120]))
            continue
        same = (found > _SPEECH) == (expected > _SPEECH)
        after = same[_CALIBRATION_SECONDS * _RATE // 512 :]
        note = f"after the first {_CALIBRATION_SECONDS} s {100 * after.mean():.2f}"
        note += f"; largest difference of a probability {np.abs(found - expected).max():.3f}"
        figures.append(Figure(what, way.side, 100 * float(same.mean()), limit, 2, note))
    return figures


def probabilities(way: Way, calibration: Path, out: Path, samples: Array) -> Array:
    """Compiles one way and runs it over the recording.

    Raises:
        EdgebigError: it does not compile.
    """
    settings = {"samples": _SAMPLES, "methods": [way.method]}
    recipe = Recipe.load("silero-vad-16k").changed(calibration=settings, **dict(way.recipe))
    bundle = edgebig.compile(
        DATA / _MODEL,
        target=way.target,
        precision=way.precision,
        recipe=recipe,
        calibration=str(calibration),
        out=out,
        force=True,
    )
    return Detector(bundle.path / bundle.part().graph, "all" if way.target == "cpu" else "off").probabilities(samples)


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="only what edgebig does by default")
    asked = parser.parse_args()
    before = machine()
    figures: list[Figure] = []
    missing = [] if (DATA / _MODEL).is_file() else [f"silero-vad: there is no {DATA}"]
    if not missing:
        with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
            figures = measure([*DEFAULTS, *([] if asked.quick else variants())], Path(folder))
    report("Speech", figures, before, _PACKAGES, missing, as_json=asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
