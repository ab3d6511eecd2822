"""Similarity: how near one tensor is to another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Similarity:
    """How near a tensor is to the one it should be.

    Attributes:
        cosine: of the two as flat vectors; 1 where both are zero.
        sqnr_db: signal to quantization noise ratio in decibels: 10 log10(|expected|² / |expected - found|²).
        max_abs: largest absolute difference.
        max_relative: that over the largest magnitude expected.
    """

    cosine: float
    sqnr_db: float
    max_abs: float
    max_relative: float

    def to_json(self) -> dict[str, float]:
        """As the manifest holds it."""
        return asdict(self)

    @classmethod
    def worst(cls, several: Iterable[Similarity]) -> Similarity:
        """The worst of each figure."""
        found = list(several)
        return cls(
            min(s.cosine for s in found),
            min(s.sqnr_db for s in found),
            max(s.max_abs for s in found),
            max(s.max_relative for s in found),
        )


def compare(expected: Array, found: Array) -> Similarity:
    """Compares two arrays of one shape in float64; equal infinities and common NaN count as equal.

    A NaN or infinity that only one of them has makes every figure the worst.
    """
    a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not (np.isfinite(a) & np.isfinite(b) | same).all():
        return Similarity(0.0, -math.inf, math.inf, math.inf)
    finite = np.isfinite(a)
    a, b = a[finite], b[finite]
    noise = a - b
    signal, error = _dot(a, a), _dot(noise, noise)
    norms = math.sqrt(signal) * math.sqrt(_dot(b, b))
    cosine = _dot(a, b) / norms if norms > 0 else float(error == 0)
    sqnr = 10 * math.log10(signal / error) if signal > 0 and error > 0 else (math.inf if error == 0 else -math.inf)
    largest = float(np.abs(noise).max()) if noise.size else 0.0
    scale = float(np.abs(a).max()) if a.size else 0.0
    relative = 0.0 if largest == 0 else largest / scale if scale > 0 else math.inf
    return Similarity(min(cosine, 1.0), sqnr, largest, relative)


def _dot(a: Array, b: Array) -> float:
    """Their inner product; not by ``@``, whose threads wait for each other where the processor is busy."""
    return float(np.einsum("i,i->", a, b))
