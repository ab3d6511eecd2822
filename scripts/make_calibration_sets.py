"""Makes calibration sets: the ready ones, and yours.

The ready sentences, from those in ``calibration/sources/``, one file for each language::

    python scripts/make_calibration_sets.py sentences -o calibration/sentences.txt

The ready shapes (needs ``edgebig[vision]``) and the ready sounds, drawn from a fixed seed::

    python scripts/make_calibration_sets.py shapes -o calibration/shapes
    python scripts/make_calibration_sets.py sounds -o calibration/sounds

The most different pictures of a large folder (needs ``edgebig[vision]``)::

    python scripts/make_calibration_sets.py pictures PHOTOS -o chosen/ --samples 128

Frames of recordings with the state that silero-vad carries from one to the next, from a bundle in fp32::

    python scripts/make_calibration_sets.py voice silero-vad.bundle RECORDING.wav... -o voice.npz --samples 512
"""

from __future__ import annotations

import argparse
import shutil
import sys
import unicodedata
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.errors import EdgebigError, InputError
from edgebig.tasks.speech import Runnable, VoiceDetector, frames, read_wav

SHAPES, HEIGHT, WIDTH, QUALITY = 24, 192, 256, 85
SOUNDS, SECONDS, RATE = 8, 0.75, 16000
PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def main() -> None:
    """Reads the arguments and makes the set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sentences = commands.add_parser("sentences", help="the ready set of sentences")
    sentences.add_argument("-o", "--output", type=Path, required=True)
    for name, what in (("shapes", "the ready set of made pictures"), ("sounds", "the ready set of made recordings")):
        commands.add_parser(name, help=what).add_argument("-o", "--output", type=Path, required=True, help="folder")
    pictures = commands.add_parser("pictures", help="the most different pictures of a folder")
    pictures.add_argument("folder", type=Path)
    pictures.add_argument("-o", "--output", type=Path, required=True, help="folder for copies of those chosen")
    pictures.add_argument("--samples", type=int, default=128)
    voice = commands.add_parser("voice", help="frames and states for silero-vad")
    voice.add_argument("bundle", type=Path)
    voice.add_argument("recordings", type=Path, nargs="+")
    voice.add_argument("-o", "--output", type=Path, required=True)
    voice.add_argument("--samples", type=int, default=512)
    arguments = parser.parse_args()
    if arguments.command == "sentences":
        sources = sorted((Path(__file__).parents[1] / "calibration" / "sources").glob("*.txt"))
        lines = interleave([file.read_text(encoding="utf-8").splitlines() for file in sources])
        arguments.output.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    elif arguments.command == "shapes":
        write_shapes(arguments.output)
    elif arguments.command == "sounds":
        write_sounds(arguments.output)
    elif arguments.command == "pictures":
        arguments.output.mkdir(parents=True, exist_ok=True)
        for file in choose_pictures(arguments.folder, arguments.samples):
            shutil.copyfile(file, arguments.output / "_".join(file.relative_to(arguments.folder).parts))
    else:
        import edgebig

        with edgebig.load(arguments.bundle) as session:
            samples: Any = voice_samples(session, arguments.recordings, arguments.samples)
        np.savez(arguments.output, **samples)


def interleave(groups: Sequence[Sequence[str]]) -> list[str]:
    """All lines, so that any prefix holds each group in its share; normalized, without blank and double ones.

    A compile reads the first ``calibration.samples`` lines, and those must not be all of one language.
    """
    keyed = []
    for number, group in enumerate(groups):
        lines = [unicodedata.normalize("NFC", line.strip()) for line in group if line.strip()]
        keyed += [((i + 0.5) / len(lines), number, line) for i, line in enumerate(lines)]
    return list(dict.fromkeys(line for _, _, line in sorted(keyed)))


def write_shapes(folder: Path) -> None:
    """Writes 24 scenes of shapes as JPEG, 256 x 192 pixels."""
    from PIL import Image

    from edgebig.calibrate.synthetic.scenes import scene

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SHAPES):
        pixels = scene(np.random.default_rng(number), HEIGHT, WIDTH)
        Image.fromarray(pixels).save(folder / f"shapes-{number:02}.jpg", quality=QUALITY, optimize=True)


def write_sounds(folder: Path) -> None:
    """Writes 8 made recordings as WAV of 0.75 s, 16 kHz, 16 bits."""
    from edgebig.calibrate.synthetic.sounds import sound

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SOUNDS):
        samples = sound(np.random.default_rng(number), int(SECONDS * RATE), RATE)
        with wave.open(str(folder / f"sounds-{number:02}.wav"), "wb") as stream:
            stream.setnchannels(1)
            stream.setsampwidth(2)
            stream.setframerate(RATE)
            stream.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())


def choose_pictures(folder: Path, count: int) -> list[Path]:
    """At most ``count`` pictures that differ most: each next one is the farthest from all chosen before.

    Farthest-point sampling (Gonzalez, Clustering to minimize the maximum intercluster distance,
    1985) on thumbnails of 8 x 8 pixels; it starts with the picture nearest to the mean.

    Raises:
        InputError: the folder holds no picture, or one that cannot be read.
    """
    from edgebig.preprocess import Preprocess
    from edgebig.tasks.vision import prepare

    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)
    if not files:
        raise InputError(f"{folder} holds no pictures ({', '.join(sorted(PICTURES))})")
    thumbnail = Preprocess(resize=(8, 8), resample="box", scale=1 / 255)
    points = np.concatenate([prepare(file, thumbnail).reshape(1, -1) for file in files])
    chosen = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(count, len(files)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return [files[i] for i in sorted(chosen)]


def voice_samples(session: Runnable, recordings: Sequence[Path], count: int) -> dict[str, np.ndarray[Any, Any]]:
    """What silero-vad is given on these recordings: for each input an array whose first axis counts the frames.

    Args:
        session: the model in FP32, whose states are those that calibration should see.
        recordings: WAV files of 16 kHz.
        count: frames to keep, evenly spread over all.

    Raises:
        InputError: a recording cannot be read.
    """
    recorder = _Recorder(session)
    detector = VoiceDetector(recorder)
    for recording in recordings:
        detector.reset()
        for frame in frames(read_wav(recording, detector.rate), detector.size):
            detector(frame)
    total = len(recorder.seen)
    kept = [recorder.seen[i] for i in np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))]
    return {name: np.stack([inputs[name] for inputs in kept]) for name in kept[0]}


class _Recorder:
    """A session that keeps copies of what it is given."""

    def __init__(self, session: Runnable) -> None:
        self._session = session
        self.inputs = session.inputs
        self.seen: list[dict[str, np.ndarray[Any, Any]]] = []

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Mapping[str, np.ndarray[Any, Any]]:
        """Runs the session."""
        self.seen.append({name: array.copy() for name, array in inputs.items()})
        return self._session.run(inputs)


if __name__ == "__main__":
    try:
        main()
    except EdgebigError as error:
        sys.exit(f"error: {error}")
