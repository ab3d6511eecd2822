"""Methods: each makes a range of a tensor's statistics. One pass over the data serves them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgebig.calibrate.counting import HALF
from edgebig.calibrate.histogram import DyadicHistogram
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
        fractions = np.linspace(1.0, 1.0 / _MSE_STEPS, _MSE_STEPS)
        errors = _squared_errors(histogram, full.magnitude * fractions, symmetric=full.min < 0)
        best = float(fractions[int(np.argmin(errors))])
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
    """KL(P || Q) for each number of bins that is kept, float64 [len(bins)].

    With ``m = bins // 128``, the first 127 levels of Q hold ``m`` bins each, and the last one the rest; so all
    but the last level are the same for 128 neighbouring thresholds.
    """
    total = counts.sum()
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    filled = np.concatenate([[0.0], np.cumsum(counts > 0)])
    entropy = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])
    outliers = total - sums[bins]
    last = counts[bins - 1] + outliers
    own = (entropy[bins - 1] + _x_log_x(last)) / total - np.log(total)

    merged = bins // _ENTROPY_LEVELS
    sizes = np.arange(merged[-1] + 1)
    edges = sizes[:, None] * np.arange(_ENTROPY_LEVELS)[None, :]
    mass, places = np.diff(sums[edges], axis=1), np.diff(filled[edges], axis=1)
    equal = (mass * _log_shares(mass, places)).sum(axis=1)
    start = merged * (_ENTROPY_LEVELS - 1)
    mass, places = sums[bins] - sums[start], filled[bins] - filled[start]
    # the last bin holds the outliers in P, so Q must give it a share too
    places += (counts[bins - 1] == 0) & (outliers > 0)
    rest = (mass + outliers) * _log_shares(mass, places)
    other = (equal[merged] + rest) / total - np.log(np.maximum(sums[bins], _SMOOTHING))
    divergence: Array = np.where(sums[bins] > 0, own - other, np.inf)
    return divergence


def _log_shares(mass: Array, places: Array) -> Array:
    """Logarithm of what each bin that is not empty gets of its level."""
    shares: Array = np.log(np.where(mass > 0, mass, _SMOOTHING) / np.maximum(places, 1))
    return shares


def _x_log_x(values: Array) -> Array:
    return values * np.log(np.where(values > 0, values, 1.0))


def _squared_errors(histogram: DyadicHistogram, magnitudes: Array, *, symmetric: bool) -> Array:
    """Error of rounding to 8 bits up to each magnitude, in squared widths of a bin, float64 [len(magnitudes)].

    The bins that round to one level are neighbours, so that sums over all bins give the error of each level
    ``q``: of ``n`` values it is ``sum(x^2) - 2 q sum(x) + n q^2``.
    """
    first = -_MSE_LEVELS if symmetric else 0
    levels = np.arange(first, first + (2 * _MSE_LEVELS if symmetric else 2 * _MSE_LEVELS + 1) + 1)
    scales = magnitudes / histogram.width / levels[-1]
    centers = np.arange(-HALF, HALF) + 0.5
    counts = histogram.counts.astype(np.float64)
    numbers = np.concatenate([[0.0], np.cumsum(counts)])
    sums = np.concatenate([[0.0], np.cumsum(counts * centers)])

    between = (levels[:-1] + 0.5)[None, :] * scales[:, None]
    inner = np.clip(np.ceil(between - 0.5), -HALF, HALF).astype(np.intp) + HALF
    edges = np.pad(inner, ((0, 0), (1, 1)), constant_values=(0, 2 * HALF))
    rounded = levels[None, :] * scales[:, None]
    terms = rounded * (rounded * np.diff(numbers[edges], axis=1) - 2.0 * np.diff(sums[edges], axis=1))
    errors: Array = counts @ np.square(centers) + terms.sum(axis=1)
    return errors


__all__ = ["METHODS", "AverageMinMax", "Entropy", "MeanSquaredError", "Method", "MinMax", "Percentile"]
