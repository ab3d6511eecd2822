"""Tally: how near a tensor stays to the one it should be, over any number of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgebig.similarity import Similarity

Array = np.ndarray[Any, Any]
_MASK = 1e30
_MASKED = 1e3
"""Masks hold constants near float32's smallest, or -inf; graphs in FP16 have smaller ones, which do the same."""


@dataclass
class Tally:
    """Sums over all elements of all samples, in float64; of fixed size.

    Attributes:
        signal: sum of squares of what is expected.
        found: sum of squares of what was found.
        both: sum of the products.
        noise: sum of squares of the differences.
        max_abs: largest difference.
        largest: largest magnitude that is expected.
        is_broken: whether a NaN or infinity was found where the expected value is finite, or the reverse.
    """

    signal: float = 0.0
    found: float = 0.0
    both: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    largest: float = 0.0
    is_broken: bool = False

    def add(self, expected: Array, found: Array) -> None:
        """Counts one sample; two arrays of one shape. Elements that :func:`masked` names are left out."""
        a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
        if a.size and math.isfinite(low := float(a.min())) and math.isfinite(float(a.max())) and low > -_MASK:
            if np.isfinite(b).all():
                self._count(a, b)
            else:
                self.is_broken = True
            return
        same = (a == b) | (np.isnan(a) & np.isnan(b)) | masked(a, b)
        finite = np.isfinite(a) & np.isfinite(b)
        self.is_broken = self.is_broken or not (finite | same).all()
        use = finite & ~masked(a, b)
        if use.any():
            self._count(a[use], b[use])

    def _count(self, a: Array, b: Array) -> None:
        difference = a - b
        self.signal += _dot(a, a)
        self.found += _dot(b, b)
        self.both += _dot(a, b)
        self.noise += _dot(difference, difference)
        self.max_abs = max(self.max_abs, float(max(difference.max(), -difference.min())))
        self.largest = max(self.largest, float(max(a.max(), -a.min())))

    @property
    def noise_ratio(self) -> float:
        """Noise over signal: 0 where both agree, infinite where the tensor is broken."""
        if self.is_broken:
            return math.inf
        if self.noise == 0:
            return 0.0
        return self.noise / self.signal if self.signal > 0 else math.inf

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in decibels."""
        ratio = self.noise_ratio
        return math.inf if ratio == 0 else -math.inf if ratio == math.inf else -10 * math.log10(ratio)

    def similarity(self) -> Similarity:
        """The same figures as :func:`edgebig.similarity.compare`, over all samples as one array."""
        if self.is_broken:
            return Similarity(0.0, -math.inf, math.inf, math.inf)
        norms = math.sqrt(self.signal) * math.sqrt(self.found)
        cosine = min(self.both / norms, 1.0) if norms > 0 else float(self.noise == 0)
        relative = 0.0 if self.max_abs == 0 else self.max_abs / self.largest if self.largest > 0 else math.inf
        return Similarity(cosine, self.sqnr_db, self.max_abs, relative)


def masked(expected: Array, found: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a mask's constant is expected and another one that masks as well was found."""
    with np.errstate(invalid="ignore"):
        mask: np.ndarray[Any, np.dtype[np.bool_]] = (expected <= -_MASK) & (found <= -_MASKED)
    return mask


def _dot(a: Array, b: Array) -> float:
    """In one thread: those of a BLAS wait for each other where other programs run too, twenty times as long."""
    return float(np.einsum("i,i->", a, b))
