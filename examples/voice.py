"""Finds speech in a recording: a PCM WAV file of 16 kHz.

    edgebig compile silero_vad.onnx -o silero-vad.bundle --target cpu --recipe silero-vad-16k
    python examples/voice.py silero-vad.bundle recording.wav

The model (silero-vad) hears 32 ms at a time. Its state goes from frame to frame, so the same loop
serves a microphone: call the detector with each 512 samples as they come.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import edgebig
from edgebig.errors import EdgebigError
from edgebig.tasks.speech import VoiceDetector, frames, read_wav, segments


def main() -> None:
    """Prints where speech starts and ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--threshold", type=float, default=0.5, help="probability from which a frame is speech")
    arguments = parser.parse_args()
    samples = read_wav(arguments.recording, rate=16000)
    with edgebig.load(arguments.bundle) as session:
        detector = VoiceDetector(session, rate=16000)
        began = time.perf_counter()
        probabilities = [detector(frame) for frame in frames(samples, detector.size)]
        took = time.perf_counter() - began
    spans = segments(probabilities, on=arguments.threshold, off=max(0.01, arguments.threshold - 0.15))
    for start, end in spans:
        print(f"{start:8.2f} s to {end:8.2f} s")
    length, speech = len(samples) / 16000, sum(end - start for start, end in spans)
    print(f"{speech:.1f} s of speech in {length:.1f} s, {took / len(probabilities) * 1e3:.2f} ms a frame of 32 ms")


if __name__ == "__main__":
    try:
        main()
    except EdgebigError as error:
        sys.exit(f"error: {error}")
