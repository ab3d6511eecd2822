"""Runs a model on a camera or a video, frame after frame, and draws what it says into the picture.

    edgebig compile best.onnx -o twinlitenet.bundle --target cpu --recipe twinlitenet
    python examples/camera.py twinlitenet.bundle --source street.mp4 --record street_lanes.avi
    python examples/camera.py twinlitenet.bundle --source 0 --seconds 60

Any model of pictures: score maps ``[1, classes, height, width]`` tint every class but the first, scores
``[1, classes]`` are written as the most probable class. Reading and preparing a frame, the model, and drawing take
place at the same time, each on another frame. Needs OpenCV (``opencv-python``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import edgebig
from edgebig import Session
from edgebig.bundle import PREPROCESS, Bundle
from edgebig.errors import EdgebigError, StreamError
from edgebig.preprocess import LABELS, Preprocess
from edgebig.tasks.vision import classify, overlay, prepare

Pixels = NDArray[np.uint8]
COLOURS = [(0, 200, 80), (255, 40, 40), (60, 120, 255), (255, 200, 0)]


class Loop:
    """The steps around the model, for frames of uint8 ``[height, width, 3]`` in RGB."""

    def __init__(self, bundle: Bundle, session: Session) -> None:
        self._how = Preprocess.from_json(json.loads(bundle.file(PREPROCESS).read_text(encoding="utf-8")))
        self._spec = session.inputs[0]
        labels = f"{Path(PREPROCESS).parent}/{LABELS}"
        found = bundle.file(labels).read_text(encoding="utf-8") if labels in bundle.manifest.files else "null"
        self._labels = json.loads(found)

    def before(self, frame: Pixels) -> dict[str, NDArray[Any]]:
        """The model's inputs."""
        return {self._spec.name: prepare(frame, self._how).astype(self._spec.dtype, copy=False)}

    def after(self, frame: Pixels, outputs: Mapping[str, NDArray[Any]]) -> Pixels:
        """The frame with what the model says."""
        maps = [scores[0].argmax(axis=0) for scores in outputs.values() if scores.ndim == 4]
        if maps:
            colours = list(itertools.islice(itertools.cycle(COLOURS), len(maps)))
            return overlay(frame, maps, colours)
        best = classify(next(iter(outputs.values())), self._labels, top=1)[0][0]
        drawn = frame.copy()
        cv2.putText(
            drawn, f"{best.label} {best.probability:.0%}", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 40, 40), 2
        )
        return drawn


def frames(source: str, seconds: float | None) -> Iterator[Pixels]:
    """Frames of a camera (its number), a file, a URL or a GStreamer pipeline, in RGB; the camera is freed at the end.

    Raises:
        OSError: it does not open.
    """
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise OSError(f"cannot open the camera or video {source!r}: check the number, the path and OpenCV's codecs")
    # A camera keeps frames back for whoever is slow; a robot wants the newest.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    end = None if seconds is None else time.monotonic() + seconds
    try:
        while end is None or time.monotonic() < end:
            taken, frame = capture.read()
            if not taken:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


class Recording:
    """A video file that takes frames in RGB; the first one gives it its size."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: Pixels) -> None:
        """Adds a frame."""
        if self._writer is None:
            size = (frame.shape[1], frame.shape[0])
            self._writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*"MJPG"), self._rate, size)
            if not self._writer.isOpened():
                raise OSError(f"cannot write the video {self._path}: its folder must exist; name it .avi")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.release()


def drawings(session: Session, loop: Loop, source: Iterator[Pixels], in_flight: int = 1) -> Iterator[Pixels]:
    """Each frame with what the model says of it, in order.

    The steps overlap, with that many runs of the model at a time; with 0 they come one after the other.
    """
    if in_flight:
        # One frame waits at most between steps: more would only make the picture older.
        return session.stream(source, depth=1, before=loop.before, after=loop.after, in_flight=in_flight)
    return (loop.after(frame, session.run(loop.before(frame))) for frame in source)


def main() -> None:
    """Runs until the video ends, the time is over or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--source", default="0", help="number of a camera, video file, URL or GStreamer pipeline (0)")
    parser.add_argument("--record", type=Path, help="video to write, .avi")
    parser.add_argument("--rate", type=float, default=30.0, help="frames a second of the video that is written (30)")
    parser.add_argument("--seconds", type=float, help="how long (until the video ends)")
    parser.add_argument("--threads", type=int, help="threads that one run may use (default: the engine's choice)")
    parser.add_argument(
        "--in-flight", type=int, default=1, help="runs at a time, best with --threads 1 (1; 0: no overlap)"
    )
    arguments = parser.parse_args()
    recording = Recording(arguments.record, arguments.rate) if arguments.record else None
    count, began = 0, time.perf_counter()
    with edgebig.load(arguments.bundle, threads=arguments.threads) as session:
        loop = Loop(Bundle.open(arguments.bundle), session)
        drawn = drawings(session, loop, frames(arguments.source, arguments.seconds), arguments.in_flight)
        try:
            with closing(drawn):
                for frame in drawn:
                    count += 1
                    if recording is not None:
                        recording.write(frame)
        except KeyboardInterrupt:
            pass
        finally:
            if recording is not None:
                recording.close()
        seconds, stats = time.perf_counter() - began, session.stats()
    if stats.p50 is None or stats.p99 is None:
        sys.exit("error: the camera or video gave no frame")
    print(f"{count} frames in {seconds:.1f} s, {count / seconds:.1f} a second, on {session.backend}")
    print(f"the model alone: p50 {stats.p50 * 1e3:.2f} ms, p99 {stats.p99 * 1e3:.2f} ms")


if __name__ == "__main__":
    try:
        main()
    except StreamError as error:
        sys.exit(f"error: {error.__cause__}")
    except (EdgebigError, OSError) as error:
        sys.exit(f"error: {error}")
