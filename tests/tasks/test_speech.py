"""Recordings, frames and segments; the voice detector on the real model and the real recording."""

from __future__ import annotations

import struct
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebig.errors import InputError
from edgebig.spec import TensorSpec
from edgebig.tasks.speech import VoiceDetector, frames, read_wav, segments


class OnnxSession:
    """ONNX Runtime on the original model, with the two things that a task needs of a session."""

    def __init__(self, path: Path) -> None:
        """Opens the model."""
        ort = pytest.importorskip("onnxruntime")
        ort.set_default_logger_severity(3)
        self.session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.inputs = [TensorSpec(i.name, i.type, tuple(i.shape)) for i in self.session.get_inputs()]

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name."""
        names = [o.name for o in self.session.get_outputs()]
        return dict(zip(names, self.session.run(None, dict(inputs)), strict=True))


def write_wav(path: Path, data: bytes, width: int = 2, rate: int = 16000, channels: int = 1) -> Path:
    """A PCM WAV file of these bytes."""
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(channels)
        stream.setsampwidth(width)
        stream.setframerate(rate)
        stream.writeframes(data)
    return path


@pytest.mark.parametrize(
    ("width", "data"),
    [
        (1, bytes([0, 64, 128, 192])),
        (2, struct.pack("<4h", -32768, -16384, 0, 16384)),
        (3, b"\x00\x00\x80" + b"\x00\x00\xc0" + b"\x00\x00\x00" + b"\x00\x00\x40"),
        (4, struct.pack("<4i", -(2**31), -(2**30), 0, 2**30)),
    ],
)
def test_every_width_of_pcm(tmp_path: Path, width: int, data: bytes) -> None:
    samples = read_wav(write_wav(tmp_path / "a.wav", data, width), 16000)
    assert samples.dtype == np.float32
    assert samples.tolist() == [-1.0, -0.5, 0.0, 0.5]


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", struct.pack("<4h", 16384, 0, -16384, -16384), channels=2)
    assert read_wav(path, 16000).tolist() == [0.25, -0.5]


def test_what_is_no_such_recording_is_refused(tmp_path: Path) -> None:
    whole = write_wav(tmp_path / "a.wav", bytes(2000), rate=44100)
    with pytest.raises(InputError, match=r"a\.wav has 44100 samples a second, expected 16000"):
        read_wav(whole, 16000)
    cut = tmp_path / "cut.wav"
    cut.write_bytes(whole.read_bytes()[:1044])
    with pytest.raises(InputError, match=r"cut\.wav is truncated: 1000 of 2000 bytes"):
        read_wav(cut, 44100)
    for name, data in (("none.wav", None), ("text.wav", b"not a recording"), ("head.wav", whole.read_bytes()[:30])):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"cannot read the recording .*{name}"):
            read_wav(tmp_path / name, 16000)
    with pytest.raises(InputError, match="no samples"):
        read_wav(write_wav(tmp_path / "empty.wav", b""), 16000)


def test_a_recording_from_a_pipe_has_no_true_length(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", struct.pack("<2h", 16384, -16384))
    data = bytearray(path.read_bytes())
    data[40:44] = struct.pack("<I", 0xFFFFFFFF)
    data[4:8] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data + b"\x00")  # half a sample
    assert read_wav(path, 16000).tolist() == [0.5, -0.5]


def test_frames_repeat_the_context_and_fill_the_last() -> None:
    found = frames(np.arange(1, 8), size=3, context=2)
    assert found.tolist() == [[0, 0, 1, 2, 3], [2, 3, 4, 5, 6], [5, 6, 7, 0, 0]]
    assert frames(np.zeros(0), 3, 2).shape == (0, 5)


def test_segments_bridge_short_pauses_and_drop_short_speech() -> None:
    p = [0.1, 0.6, 0.4, 0.7, 0.2, 0.6, 0.9, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.4, 0.6, 0.6, 0.3]
    # Frames of 1 s: 1..7 (0.4 stays on, one frame of silence is bridged), 10 is too short, 14..16 ends open.
    assert segments(p, frame_seconds=1, min_speech=2, min_silence=2) == [(1, 7), (14, 16)]
    assert segments(p, frame_seconds=1, min_speech=0, min_silence=1) == [(1, 4), (5, 7), (10, 11), (14, 16)]
    assert segments([0.9] * 10, frame_seconds=0.1) == [(0.0, 1.0)]
    assert segments([]) == []


def test_voice_detector_on_the_real_recording(shared_data: Path) -> None:
    session = OnnxSession(shared_data / "silero-vad" / "silero_vad_op18_ifless.onnx")
    samples = read_wav(shared_data / "silero-vad" / "test.wav", 16000)
    detector = VoiceDetector(session)
    found = detector.probabilities(samples)
    assert found.shape == (1875,)
    assert round(float((found > 0.5).mean()), 2) == 0.77
    spans = segments(found)
    assert 0.7 < sum(end - start for start, end in spans) / 60 < 0.85
    # The same model, fed by hand with frames that carry their context, from a fresh state.
    state = np.zeros((2, 1, 128), np.float32)
    for frame, probability in zip(frames(samples, 512, 64)[:40], found, strict=False):
        out = session.run({"input": frame[None], "state": state, "sr": np.array(16000)})
        state = out["stateN"]
        assert out["output"].item() == probability
    np.testing.assert_array_equal(detector.probabilities(samples[: 512 * 20]), found[:20])  # it starts afresh


def test_voice_detector_refuses_other_models() -> None:
    class Other:
        inputs = [TensorSpec("input", "float32", (1, 512)), TensorSpec("state", "float32", (2, 1, 128))]

        def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
            raise AssertionError("not reached")

    with pytest.raises(InputError, match="has 576 samples, found 512"):
        VoiceDetector(Other())
    with pytest.raises(InputError, match="found 44100"):
        VoiceDetector(Other(), rate=44100)
    Other.inputs = [TensorSpec("pixels", "float32", (1, 3, 8, 8))]
    with pytest.raises(InputError, match="found pixels"):
        VoiceDetector(Other())
