"""Methods: each makes a range of a tensor's statistics. One pass over the data serves them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgebig.calibrate.histogram import HALF, DyadicHistogram
from edgebig.calibrate.ranges import Range
from edgebig.calibrate.statistics import TensorStatistics

Array = np.ndarray[Any, Any]

_ENTROPY_LEVELS = 128
_SMOOTHING = 1e-4
"""Count that Q gets where P has outliers and Q nothing, which would make the divergence infinite."""

_MSE_LEVELS = 127
_MSE_STEPS = 100


class Method(Protocol):
    """Makes a range of statistics."""

    @property
    def name(self) -> str:
        """What ``--calib-method`` takes."""

    @property
    def needs_histogram(self) -> bool:
        """Whether the extremes alone are not enough."""

    def __call__(self, statistics: TensorStatistics) -> Range:
        """The range; 0 to 0 where no value was seen."""


@dataclass(frozen=True)
class MinMax:
    """From the smallest to the largest value: clips nothing."""

    name = "min-max"
    needs_histogram = False

    def __call__(self, statistics: TensorStatistics) -> Range:
        return _full(statistics)


@dataclass(frozen=True)
class AverageMinMax:
    """From the mean of the samples' smallest to the mean of their largest values.

    The plain mean stands for the moving average of other tools, whose result depends on the order
    of the samples.
    """

    name = "average-min-max"
    needs_histogram = False

    def __call__(self, statistics: TensorStatistics) -> Range:
        # an infinite range is no format's, whichever the samples that made it so
        return _full(statistics) if statistics.unbounded else Range(*statistics.mean_extremes)


@dataclass(frozen=True)
class Percentile:
    """Clips the largest magnitudes, so that ``percent`` of the values stay inside.

    Wu et al. 2020, "Integer Quantization for Deep Learning Inference: Principles and Empirical
    Evaluation", section 5.2. Exact to a bin of the histogram, 1/2048 of the largest magnitude or less.
    """

    percent: float = 99.99
    name = "percentile"
    needs_histogram = True

    def __call__(self, statistics: TensorStatistics) -> Range:
        histogram = _usable(statistics)
        if histogram is None:
            return _full(statistics)
        below = np.cumsum(histogram.magnitudes())
        needed = below[-1] * (self.percent / 100.0)
        return _clipped(statistics, (int(np.searchsorted(below, needed)) + 1) * histogram.width)


@dataclass(frozen=True)
class Entropy:
    """Clips where 128 levels lose the least information about the distribution of magnitudes.

    TensorRT's calibration: Migacz 2017, "8-bit Inference with TensorRT", GTC. For each threshold the
    clipped reference distribution P, its outliers added to the last bin, is compared with Q, the same
    bins merged into 128 levels and spread again over those that are not empty; the threshold with
    the smallest Kullback-Leibler divergence wins. All thresholds are evaluated at once from
    cumulative sums.
    """

    name = "entropy"
    needs_histogram = True

    def __call__(self, statistics: TensorStatistics) -> Range:
        histogram = _usable(statistics)
        if histogram is None:
            return _full(statistics)
        # half as many bins, 1024 to 2048 in use, as the paper takes
        counts = histogram.magnitudes().reshape(-1, 2).sum(axis=1).astype(np.float64)
        used = int(np.flatnonzero(counts)[-1]) + 1
        counts = counts[:used]
        if used <= _ENTROPY_LEVELS:
            return _full(statistics)
        # zeros, which every threshold represents exactly, would outweigh all else after a Relu
        counts[0] = counts[1]
        bins = np.arange(_ENTROPY_LEVELS, used + 1)
        best = int(bins[int(np.argmin(_divergences(counts, bins)))])
        return _clipped(statistics, best * 2 * histogram.width)


@dataclass(frozen=True)
class MeanSquaredError:
    """Clips where rounding and clipping together make the smallest mean squared error in 8 bits.

    Sung et al. 2015, "Resiliency of Deep Neural Networks under Quantization", and Choukroun et al.
    2019, "Low-bit Quantization of Neural Networks for Efficient Inference", section 3. The error of a
    value is taken at the center of its bin.
    """

    name = "mse"
    needs_histogram = True

    def __call__(self, statistics: TensorStatistics) -> Range:
        histogram = _usable(statistics)
        if histogram is None:
            return _full(statistics)
        full = _full(statistics)
        centers, counts = _occupied(histogram)
        errors = [
            _squared_error(centers, counts, Range(full.min * f, full.max * f), symmetric=full.min < 0)
            for f in _fractions()
        ]
        best = float(_fractions()[int(np.argmin(errors))])
        return _clipped(statistics, full.magnitude * best)


METHODS: dict[str, Callable[[], Method]] = {
    "min-max": MinMax,
    "average-min-max": AverageMinMax,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MeanSquaredError,
}


def _full(statistics: TensorStatistics) -> Range:
    return Range(statistics.smallest, statistics.largest) if statistics.samples else Range(0.0, 0.0)


def _usable(statistics: TensorStatistics) -> DyadicHistogram | None:
    """The histogram, unless there is nothing to clip: only zeros, or an infinite range, which is no format's."""
    histogram = statistics.histogram
    if statistics.unbounded or histogram is None or histogram.exponent is None:
        return None
    return histogram


def _clipped(statistics: TensorStatistics, threshold: float) -> Range:
    """The values' range without magnitudes above the threshold."""
    full = _full(statistics)
    return Range(max(full.min, -threshold), min(full.max, threshold))


def _divergences(counts: Array, bins: Array) -> Array:
    """KL(P || Q) for each number of bins that is kept, float64 [len(bins)]."""
    total = counts.sum()
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    filled = np.concatenate([[0.0], np.cumsum(counts > 0)])
    entropy = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])
    outliers = total - sums[bins]
    last = counts[bins - 1] + outliers
    own = (entropy[bins - 1] + _x_log_x(last)) / total - np.log(total)

    merged = bins // _ENTROPY_LEVELS
    edges = np.minimum(merged[:, None] * np.arange(_ENTROPY_LEVELS + 1)[None, :], bins[:, None])
    edges[:, -1] = bins
    mass = np.diff(sums[edges], axis=1)
    places = np.diff(filled[edges], axis=1)
    # the last bin holds the outliers in P, so Q must give it a share too
    places[:, -1] += (counts[bins - 1] == 0) & (outliers > 0)
    weight = mass.copy()
    weight[:, -1] += outliers
    shares = np.where(mass > 0, mass, _SMOOTHING) / np.maximum(places, 1)
    other = (weight * np.log(shares)).sum(axis=1) / total - np.log(np.maximum(sums[bins], _SMOOTHING))
    divergence: Array = np.where(sums[bins] > 0, own - other, np.inf)
    return divergence


def _x_log_x(values: Array) -> Array:
    return values * np.log(np.where(values > 0, values, 1.0))


def _fractions() -> Array:
    """Fractions of the full range that are tried, the whole first."""
    return np.linspace(1.0, 1.0 / _MSE_STEPS, _MSE_STEPS)


def _occupied(histogram: DyadicHistogram) -> tuple[Array, Array]:
    used = np.flatnonzero(histogram.counts)
    return histogram.centers()[used], histogram.counts[used].astype(np.float64)


def _squared_error(centers: Array, counts: Array, kept: Range, *, symmetric: bool) -> float:
    low, high = (-kept.magnitude, kept.magnitude) if symmetric else (0.0, kept.max)
    scale = high / (_MSE_LEVELS if symmetric else 2 * _MSE_LEVELS + 1)
    rounded = np.clip(np.rint(centers / scale) * scale, low, high)
    return float(counts @ np.square(centers - rounded))


__all__ = ["HALF", "METHODS", "AverageMinMax", "Entropy", "MeanSquaredError", "Method", "MinMax", "Percentile"]
