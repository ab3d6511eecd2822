"""Sounds: made recordings at the level of speech, where no recordings are at hand.

Voices as a source and a filter (pulses of a gliding pitch through three resonances; Fant, "Acoustic
Theory of Speech Production", 1960) in syllables with pauses, coloured noise, tones and sweeps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_LEVEL = (-26.0, 6.0)
"""Mean and deviation of the level in decibels below full scale; -26 is that of speech by ITU-T P.56's custom."""

_FLOOR = -65.0
"""Level of the noise that every recording has, in decibels below full scale."""


def sound(random: np.random.Generator, length: int, rate: int) -> Array:
    """One made recording, float32 ``[length]`` between -1 and 1.

    Args:
        random: all that is drawn comes from it; equal generators give equal sounds.
        length: in samples.
        rate: samples a second.
    """
    makers = (_voice, _voice, _voice, _noise, _tones, _sweep)
    wave = makers[random.integers(len(makers))](random, length, rate)
    loudness = max(float(np.sqrt(np.mean(wave**2))), 1e-12)
    level = np.clip(random.normal(*_LEVEL), -50, -12)
    wave = wave / loudness * 10 ** (level / 20) + random.standard_normal(length) * 10 ** (_FLOOR / 20)
    return np.asarray(np.clip(wave, -1, 1), np.float32)


def _voice(random: np.random.Generator, length: int, rate: int) -> Array:
    """Syllables: each has a pitch, resonances and a loudness of its own, and some are silent or hissed."""
    wave = np.zeros(length)
    pitch = random.uniform(80, 280)
    start = 0
    while start < length:
        count = min(int(rate * random.uniform(0.08, 0.35)) + 1, length - start)
        if random.random() < 0.8:
            hissed = random.random() < 0.25
            source = random.standard_normal(count) if hissed else _pulses(random, count, rate, pitch)
            piece = _resonant(random, source, rate, hissed) * np.hanning(count + 2)[1:-1]
            wave[start : start + count] = piece * random.uniform(0.3, 1.0)
        start += count
    return wave


def _pulses(random: np.random.Generator, count: int, rate: int, pitch: float) -> Array:
    """A train of pulses whose pitch glides, as the vocal cords give it."""
    glide = np.linspace(random.uniform(0.8, 1.2), random.uniform(0.8, 1.2), count)
    turns = np.cumsum(pitch * glide / rate)
    return np.diff(np.floor(turns), prepend=0.0) - pitch / rate


def _resonant(random: np.random.Generator, source: Array, rate: int, hissed: bool) -> Array:
    """The source through three resonances of a vocal tract, or of a narrow gap between the teeth."""
    frequency = np.fft.rfftfreq(source.size, 1 / rate)
    places = [(2500, 7000)] if hissed else [(250, 900), (900, 2400), (2200, 3200)]
    gain = np.zeros(frequency.size)
    for index, (low, high) in enumerate(places):
        centre, width = random.uniform(low, high), random.uniform(80, 200) * (8 if hissed else 1)
        gain += 0.5**index / (1 + ((frequency - centre) / width) ** 2)
    piece = np.fft.irfft(np.fft.rfft(source) * gain, source.size)
    return np.asarray(piece / max(float(np.abs(piece).max()), 1e-12))


def _noise(random: np.random.Generator, length: int, rate: int) -> Array:
    """Noise whose power falls with some power of the frequency, and that swells and fades."""
    frequency = np.fft.rfftfreq(length, 1 / rate)
    frequency[0] = np.inf
    spectrum = np.fft.rfft(random.standard_normal(length)) / np.maximum(frequency, 20) ** random.uniform(0, 1)
    swell = np.sin(np.pi * np.arange(length) / rate * random.uniform(0.1, 4) + random.uniform(0, 6))
    return np.asarray(np.fft.irfft(spectrum, length) * (0.3 + 0.7 * swell**2))


def _tones(random: np.random.Generator, length: int, rate: int) -> Array:
    """Up to four steady tones, some with an attack and a decay."""
    time = np.arange(length) / rate
    wave = np.zeros(length)
    for _ in range(random.integers(1, 5)):
        tone = np.sin(2 * np.pi * _pitch(random, rate) * time + random.uniform(0, 6))
        wave += tone * random.uniform(0.1, 1) * np.exp(-time * random.choice([0.0, 3.0]))
    return wave


def _sweep(random: np.random.Generator, length: int, rate: int) -> Array:
    """A tone that glides from one pitch to another, evenly in octaves."""
    pitch = np.geomspace(_pitch(random, rate), _pitch(random, rate), length)
    return np.asarray(np.sin(2 * np.pi * np.cumsum(pitch) / rate))


def _pitch(random: np.random.Generator, rate: int) -> float:
    return float(np.exp(random.uniform(np.log(60), np.log(0.45 * rate))))
