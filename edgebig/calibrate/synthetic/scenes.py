"""Scenes: made pictures with the statistics of photographs, where no photographs are at hand.

The dead leaves model: shapes of every size that hide each other (Lee, Mumford and Huang, "Occlusion
models for natural images", 2001). It gives what white noise lacks and convolutions answer to: edges,
flat areas, and a power spectrum that falls with the square of the frequency.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_LEAVES = (40, 400)
_SMALLEST = (1 / 100, 1 / 12)
_LARGEST = 0.6
"""Radii of leaves, relative to the picture's shorter side; the smallest differs from scene to scene."""

_LUMINANCE = (0.299, 0.587, 0.114)


def scene(random: np.random.Generator, height: int, width: int) -> Array:
    """One made picture, uint8 ``[height, width, 3]`` in RGB.

    Args:
        random: all that is drawn comes from it; equal generators give equal pictures.
        height: in pixels.
        width: in pixels.
    """
    palette = _palette(random)
    picture, rough = _background(random, palette, height, width)
    for radius in _radii(random) * min(height, width):
        _draw_leaf(random, picture, rough, palette, float(radius))
    picture *= 1 + rough[..., None] * _texture(random, height, width)[..., None]
    picture = _exposed(random, _softened(picture, random))
    noise = random.normal(0, random.uniform(0, 0.02), (height, width, 1))
    return np.rint(np.clip(picture + noise, 0, 1) * 255).astype(np.uint8)


def _palette(random: np.random.Generator) -> Array:
    """Colours of one scene, float64 ``[12, 3]``: any lightness, and little but the same kind of colour."""
    light = random.beta(1.1, 1.3, (12, 1))
    tints = random.normal(0, 1, (12, 3)) * random.choice([0.05, 0.15, 0.35], (12, 1), p=[0.4, 0.35, 0.25])
    cast = random.normal((0.04, 0.0, -0.04), 0.08)
    return np.asarray(np.clip(light * (1 + cast) + tints * np.sqrt(light), 0.0, 1.0))


def _background(random: np.random.Generator, palette: Array, height: int, width: int) -> tuple[Array, Array]:
    """A sky and a ground, each a gradient, and how rough they are."""
    horizon = int(height * random.uniform(0.0, 0.9))
    picture = np.empty((height, width, 3))
    rough = np.empty((height, width))
    for rows in (slice(0, horizon), slice(horizon, height)):
        first, second = palette[random.integers(len(palette), size=2)]
        count = len(range(*rows.indices(height)))
        picture[rows] = np.linspace(first, (first + second) / 2, count)[:, None, :]
        rough[rows] = random.gamma(1.0, 0.08)
    return picture, rough


def _radii(random: np.random.Generator) -> Array:
    """Radii relative to the shorter side, of the density r^-3 that makes a picture the same at every scale.

    The largest come first, so that small ones stay visible.
    """
    count = int(np.exp(random.uniform(*np.log(_LEAVES))))
    smallest = np.exp(random.uniform(*np.log(_SMALLEST)))
    low, high = smallest**-2, _LARGEST**-2
    return np.asarray(np.sort((high + random.random(count) * (low - high)) ** -0.5)[::-1])


def _draw_leaf(random: np.random.Generator, picture: Array, rough: Array, palette: Array, radius: float) -> None:
    """Paints an ellipse or a turned rectangle over what is there."""
    height, width = rough.shape
    top, left = random.uniform(0, height), random.uniform(0, width)
    reach = int(np.ceil(radius * 1.5))
    rows = slice(max(int(top) - reach, 0), min(int(top) + reach + 1, height))
    columns = slice(max(int(left) - reach, 0), min(int(left) + reach + 1, width))
    y = (np.arange(rows.start, rows.stop) - top)[:, None] / radius
    x = (np.arange(columns.start, columns.stop) - left)[None, :] / radius
    angle, squeeze = random.uniform(0, np.pi), random.uniform(0.3, 1.0)
    along, across = x * np.cos(angle) + y * np.sin(angle), (y * np.cos(angle) - x * np.sin(angle)) / squeeze
    inside = along**2 + across**2 <= 1 if random.random() < 0.6 else np.maximum(abs(along), abs(across)) <= 1
    shade = 1 + random.normal(0, 0.25) * x + random.normal(0, 0.25) * y
    colour = palette[random.integers(len(palette))] * random.uniform(0.8, 1.2)
    picture[rows, columns][inside] = (shade[..., None] * colour)[inside]
    rough[rows, columns][inside] = random.gamma(1.0, 0.1)


def _texture(random: np.random.Generator, height: int, width: int) -> Array:
    """A field whose amplitude falls with the frequency, of mean 0 and deviation 1, float64 ``[height, width]``."""
    rows, columns = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None, :] * width
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.standard_normal((height, width))) / frequency ** random.uniform(0.7, 1.3)
    field = np.fft.irfft2(spectrum, (height, width))
    return np.asarray(field / max(float(field.std()), 1e-12))


def _softened(picture: Array, random: np.random.Generator) -> Array:
    """What a lens does: a binomial blur, at times twice."""
    for _ in range(random.integers(0, 3)):
        for axis in (0, 1):
            if picture.shape[axis] > 1:
                ends = np.take(picture, [0], axis), np.take(picture, [-1], axis)
                padded = np.concatenate([ends[0], picture, ends[1]], axis)
                size = picture.shape[axis]
                before, after = (np.take(padded, range(i, i + size), axis) for i in (0, 2))
                picture = (before + 2 * picture + after) / 4
    return picture


def _exposed(random: np.random.Generator, picture: Array) -> Array:
    """Brightness and contrast as a camera's exposure would set them, and at times little colour."""
    gray = picture @ np.asarray(_LUMINANCE)
    if random.random() < 0.2:
        picture = gray[..., None] + (picture - gray[..., None]) * random.uniform(0.0, 0.5)
    centre, spread = random.normal(0.47, 0.1), random.uniform(0.18, 0.32)
    return np.asarray((picture - gray.mean()) * (spread / max(float(gray.std()), 0.02)) + centre)
