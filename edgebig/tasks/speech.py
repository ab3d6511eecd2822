"""Recordings to frames, and frames to speech segments. Needs NumPy alone."""

from __future__ import annotations

import wave
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgebig.errors import InputError

Floats = NDArray[np.float32]

# A recorder that writes to a pipe cannot know the length, and leaves one of the largest numbers there.
_LENGTH_UNKNOWN = 0x7FFF_0000


class Runnable(Protocol):
    """What the tasks need of a session: :class:`edgebig.Session` has it."""

    @property
    def inputs(self) -> Sequence[Any]:
        """Specs of the inputs, each with ``name`` and ``shape``."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Outputs by name."""


def read_wav(path: str | Path | IO[bytes], rate: int) -> Floats:
    """The recording as float32 ``[samples]``, mono, from -1 to 1. Several channels are averaged.

    Args:
        path: a WAV file of 8, 16, 24 or 32-bit PCM, or its open bytes.
        rate: the sampling rate that the model expects, in Hz.

    Raises:
        InputError: the file is missing, truncated or empty, no PCM WAV, or has another rate.
    """
    given = str(path) if isinstance(path, str | Path) else path
    path = given if isinstance(given, str) else getattr(given, "name", "given as bytes")
    try:
        with wave.open(given, "rb") as stream:
            found, channels, width = stream.getframerate(), stream.getnchannels(), stream.getsampwidth()
            expected = stream.getnframes() * channels * width
            data = stream.readframes(stream.getnframes())
    except OSError as error:
        raise InputError(f"cannot read the recording {path}: {error.strerror}") from error
    except (wave.Error, EOFError) as error:
        reason = str(error) or "the file ends in its header"
        raise InputError(f"cannot read the recording {path}: {reason}: convert it to PCM WAV") from error
    if found != rate:
        raise InputError(f"the recording {path} has {found} samples a second, expected {rate}: resample it")
    if len(data) < expected < _LENGTH_UNKNOWN:
        raise InputError(f"the recording {path} is truncated: {len(data)} of {expected} bytes are there")
    whole = len(data) // (channels * width)
    if whole == 0:
        raise InputError(f"the recording {path} holds no samples")
    samples = _decode(data[: whole * channels * width], width, path)
    mono: Floats = samples.reshape(whole, channels).mean(axis=1, dtype=np.float32)
    return mono


def frames(samples: NDArray[Any], size: int, context: int = 0) -> Floats:
    """The samples cut into frames for a streaming model.

    Args:
        samples: ``[samples]``.
        size: new samples in each frame; the last frame is filled up with zeros.
        context: samples before the frame that are repeated at its start; zeros before the first.

    Returns:
        float32 ``[frames, context + size]``.
    """
    count = -(-len(samples) // size)
    padded = np.zeros(context + count * size, dtype=np.float32)
    padded[context : context + len(samples)] = samples
    if count == 0:
        return np.zeros((0, context + size), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, context + size)[::size]
    return np.ascontiguousarray(windows)


class VoiceDetector:
    """silero-vad (github.com/snakers4/silero-vad, version 5) over a session: state and context go from frame to frame.

    Attributes:
        size: samples in a frame: 512 at 16 kHz, 256 at 8 kHz.
        context: samples of the frame before that the model also sees: 64, or 32.
        rate: sampling rate in Hz.
    """

    def __init__(self, session: Runnable, rate: int = 16000) -> None:
        """Checks that the session has the model's inputs.

        Args:
            session: has the inputs ``input`` ``[1, context + size]`` and ``state`` ``[2, 1, 128]``, and
                ``sr`` where the rate was not frozen; the outputs ``output`` ``[1, 1]`` and ``stateN``.
            rate: 16000 or 8000.

        Raises:
            InputError: another rate, or a model with other inputs.
        """
        if rate not in (8000, 16000):
            raise InputError(f"the voice detector takes 8000 or 16000 samples a second, found {rate}")
        self.rate = rate
        self.size, self.context = (512, 64) if rate == 16000 else (256, 32)
        shapes = {spec.name: tuple(spec.shape) for spec in session.inputs}
        length = shapes.get("input", ())[-1:]
        if not {"input", "state"} <= set(shapes) <= {"input", "state", "sr"}:
            raise InputError(f"the voice detector needs the inputs input and state, found {', '.join(shapes)}")
        if length and isinstance(length[0], int) and length[0] != self.size + self.context:
            raise InputError(
                f"at {rate} Hz the model's input has {self.size + self.context} samples, found {length[0]}"
            )
        self._session = session
        self._rate_input = {"sr": np.array(rate, np.int64)} if "sr" in shapes else {}
        self.reset()

    def reset(self) -> None:
        """Forgets what was heard: call it between recordings."""
        self._frame = np.zeros((1, self.context + self.size), np.float32)
        self._state = np.zeros((2, 1, 128), np.float32)

    def __call__(self, samples: NDArray[Any]) -> float:
        """The probability that the next frame is speech.

        Args:
            samples: ``[size]``, -1 to 1.

        Raises:
            InputError: another number of samples.
        """
        if samples.shape != (self.size,):
            raise InputError(f"a frame has {self.size} samples, found {list(samples.shape)}")
        self._frame[0, : self.context] = self._frame[0, self.size :]
        self._frame[0, self.context :] = samples
        outputs = self._session.run({"input": self._frame, "state": self._state, **self._rate_input})
        self._state = np.array(outputs["stateN"], dtype=np.float32)
        return float(outputs["output"].reshape(-1)[0])

    def probabilities(self, samples: NDArray[Any]) -> Floats:
        """The probability of speech for each frame of a recording ``[samples]``, from a fresh state: ``[frames]``."""
        self.reset()
        return np.array([self(frame) for frame in frames(samples, self.size)], dtype=np.float32)


def segments(
    probabilities: Iterable[float],
    frame_seconds: float = 512 / 16000,
    on: float = 0.5,
    off: float = 0.35,
    min_speech: float = 0.25,
    min_silence: float = 0.1,
) -> list[tuple[float, float]]:
    """Where speech starts and ends, in seconds.

    Hysteresis: speech starts at a frame of probability ``on`` or more, and ends before the first
    frame below ``off`` from which ``min_silence`` passes without one of ``on`` or more. The defaults are silero-vad's.

    Args:
        probabilities: of speech, one for each frame.
        frame_seconds: length of a frame.
        on: threshold to start.
        off: threshold to end.
        min_speech: shorter segments are dropped, in seconds.
        min_silence: shorter pauses are bridged, in seconds.
    """
    found: list[tuple[int, int]] = []
    start: int | None = None
    pause: int | None = None
    count = 0
    for index, probability in enumerate(probabilities):
        count = index + 1
        if probability >= on:
            start, pause = index if start is None else start, None
        elif start is not None and probability < off and pause is None:
            pause = index
        if start is not None and pause is not None and (count - pause) * frame_seconds >= min_silence:
            found.append((start, pause))
            start = pause = None
    if start is not None:
        found.append((start, pause or count))
    spans = [(first * frame_seconds, end * frame_seconds) for first, end in found]
    return [(first, end) for first, end in spans if end - first >= min_speech]


def _decode(data: bytes, width: int, path: str | Path) -> Floats:
    """Little-endian PCM; 8-bit samples are unsigned, wider ones signed."""
    raw = np.frombuffer(data, np.uint8)
    if width == 1:
        values = raw.astype(np.float64) - 128
    elif width in (2, 4):
        values = raw.view(f"<i{width}").astype(np.float64)
    elif width == 3:
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = raw.reshape(-1, 3)
        values = wide.view("<i4")[:, 0] / 256.0
    else:
        raise InputError(f"the recording {path} has {8 * width} bits a sample: convert it to 16-bit PCM")
    return np.asarray(values / 2.0 ** (8 * width - 1), np.float32)
