"""Each method against a plain reference over all values, in float64, and against ONNX Runtime's calibrators."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import conv_net, net, node, samples_for

from edgebig.calibrate import METHODS, collect
from edgebig.calibrate.methods import AverageMinMax, Entropy, MeanSquaredError, MinMax, Percentile
from edgebig.calibrate.ranges import Range
from edgebig.calibrate.statistics import TensorStatistics

Array = np.ndarray[Any, Any]


def of(*samples: Array) -> TensorStatistics:
    statistics = TensorStatistics(counted=True)
    for values in samples:
        statistics.update(float(values.min()), float(values.max()), values)
    return statistics


def normal(random: np.random.Generator) -> Array:
    return random.normal(size=20_000)


def relu(random: np.random.Generator) -> Array:
    return np.maximum(random.normal(size=20_000), 0)


def heavy(random: np.random.Generator) -> Array:
    return random.standard_t(3, size=20_000)


def skewed(random: np.random.Generator) -> Array:
    return random.exponential(size=20_000) - 0.1


def uniform(random: np.random.Generator) -> Array:
    return random.uniform(-1, 1, size=20_000)


def outlier(random: np.random.Generator) -> Array:
    return np.concatenate([random.normal(size=20_000), [50.0]])


def negative(random: np.random.Generator) -> Array:
    return -random.exponential(size=5_000) - 3


def few(random: np.random.Generator) -> Array:
    return random.normal(size=50)


MADE = [normal, relu, heavy, skewed, uniform, outlier, negative, few]
Make = Callable[[np.random.Generator], Array]


def drawn(make: Make, scale: float = 1.0) -> Array:
    return (make(np.random.default_rng(3)) * scale).astype(np.float32)


def clipped(values: Array, threshold: float) -> tuple[float, float]:
    return max(float(values.min()), -threshold), min(float(values.max()), threshold)


def threshold_of(found: Range, values: Array) -> float:
    """The threshold behind a range, or the whole magnitude where it clips nothing."""
    assert float(values.min()) <= found.min and found.max <= float(values.max())
    return found.magnitude


@pytest.mark.parametrize("name", METHODS)
def test_nothing_zeros_and_infinities(name: str) -> None:
    method = METHODS[name]()
    assert method.name == name
    assert method(TensorStatistics(counted=True)) == Range(0.0, 0.0)
    assert method(of(np.zeros(4, np.float32))) == Range(0.0, 0.0)
    some = of(np.float32([-math.inf, 2.0]), np.float32([-1.0, 1.0]))
    assert method(some) == Range(-math.inf, 2.0)
    assert method(of(np.float32([-math.inf, math.inf]))) == Range(-math.inf, math.inf)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("make", MADE)
def test_a_scale_by_a_power_of_two_scales_the_range(name: str, make: Make) -> None:
    method = METHODS[name]()
    plain, scaled = method(of(drawn(make))), method(of(drawn(make) * np.float32(2**-30)))
    assert (scaled.min, scaled.max) == (plain.min * 2**-30, plain.max * 2**-30)


@pytest.mark.parametrize("make", MADE)
def test_min_max_and_the_average(make: Make) -> None:
    parts = np.array_split(drawn(make), 5)
    whole = np.concatenate(parts)
    assert MinMax()(of(*parts)) == Range(float(whole.min()), float(whole.max()))
    found = AverageMinMax()(of(*parts))
    expected = [float(np.mean([np.float64(end(p)) for p in parts])) for end in (np.min, np.max)]
    assert [found.min, found.max] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("percent", [100.0, 99.99, 99.0, 50.0])
@pytest.mark.parametrize("make", MADE)
def test_percentile_is_numpys_to_a_bin(make: Make, percent: float) -> None:
    values = drawn(make)
    statistics = of(values)
    assert statistics.histogram is not None
    width = statistics.histogram.width
    assert width <= np.abs(values).max() / 2048
    exact = float(np.quantile(np.abs(values.astype(np.float64)), percent / 100, method="inverted_cdf"))
    found = Percentile(percent)(statistics)
    expected = clipped(values, exact)
    assert [found.min, found.max] == pytest.approx(expected, abs=width * 1.001)
    inside = np.abs(values) <= max(-found.min, found.max)
    assert inside.mean() >= percent / 100 or found == MinMax()(statistics)


def naive_divergences(values: Array) -> dict[int, float]:
    """TensorRT's algorithm as Migacz 2017 gives it, a threshold at a time, from the values themselves.

    Keys are numbers of bins kept; the bins are twice as wide as the histogram's.
    """
    magnitude = float(np.abs(values).max())
    width = 2.0 ** (math.frexp(magnitude)[1] - 11)
    bins = np.floor(values.astype(np.float64) / (width / 2))
    bins = np.where(bins < 0, -bins - 1, bins) // 2
    counts = [float(c) for c in np.bincount(bins.astype(int))]
    if len(counts) > 1:
        counts[0] = counts[1]
    found = {}
    for kept in range(128, len(counts) + 1):
        reference = counts[:kept]
        outliers = sum(counts[kept:])
        p = [*reference[:-1], reference[-1] + outliers]
        if sum(reference) == 0:
            continue
        merged = kept // 128
        q = [0.0] * kept
        for level in range(128):
            start = level * merged
            stop = kept if level == 127 else start + merged
            filled = [i for i in range(start, stop) if p[i] > 0]
            mass = sum(reference[start:stop]) or 1e-4
            for i in filled:
                q[i] = mass / len(filled)
        p_total, q_total = sum(p), sum(reference)
        found[kept] = sum(
            a / p_total * math.log((a / p_total) / (b / q_total)) for a, b in zip(p, q, strict=True) if a > 0
        )
    return found


@pytest.mark.parametrize("make", [normal, relu, heavy, outlier, negative])
def test_entropy_takes_the_threshold_of_the_plain_loop(make: Make) -> None:
    values = drawn(make)
    width = 2.0 ** (math.frexp(float(np.abs(values).max()))[1] - 11)
    divergences = naive_divergences(values)
    best = min(divergences.values())
    threshold = threshold_of(Entropy()(of(values)), values)
    kept = math.ceil(threshold / width)
    # equal to rounding: two thresholds may be as good as each other
    assert divergences[kept] <= best + 1e-9


def test_entropy_clips_an_outlier_and_spares_a_flat_distribution() -> None:
    assert Entropy()(of(drawn(outlier))).magnitude < 10
    assert Entropy()(of(drawn(uniform))).magnitude > 0.99
    few_bins = np.float32([0.5, 1.0, 1e-3])
    assert Entropy()(of(few_bins)).max <= 1.0


def error(values: Array, low: float, high: float) -> float:
    """Mean squared error of eight bits between these ends: symmetric with 127 levels, or 255 from 0."""
    wide = values.astype(np.float64)
    scale = high / (127 if low < 0 else 255)
    return float(np.square(wide - np.clip(np.rint(wide / scale) * scale, low, high)).mean())


@pytest.mark.parametrize("make", MADE)
def test_mse_is_near_the_best_of_many_thresholds(make: Make) -> None:
    values = drawn(make)
    full = float(np.abs(values).max())
    symmetric = values.min() < 0
    best = min(error(values, -high if symmetric else 0.0, high) for high in np.linspace(full, full / 1000, 1000))
    magnitude = threshold_of(MeanSquaredError()(of(values)), values)
    assert error(values, -magnitude if symmetric else 0.0, magnitude) <= 1.05 * best


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
def test_every_range_lies_within_the_extremes(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    statistics = of(values)
    for make in METHODS.values():
        found = make()(statistics)
        assert math.isfinite(found.min) and math.isfinite(found.max)
        assert found.min >= values.min() and found.max <= values.max()


class _Reader:
    """Samples as ONNX Runtime's calibrators take them."""

    def __init__(self, samples: list[dict[str, Array]]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._samples, None)


def peers(calibrate: Any, folder: Path, samples: list[dict[str, Array]], method: Any, **options: Any) -> Any:
    graph = conv_net()
    onnx.save(ir.to_proto(graph.model), folder / "net.onnx")
    calibrator = calibrate.create_calibrator(
        folder / "net.onnx", ["Conv", "Gemm"], str(folder / "augmented.onnx"), method, extra_options=options
    )
    calibrator.collect_data(_Reader(samples))
    return {name: data.range_value for name, data in calibrator.compute_data().items()}


TENSORS = ["x", "conv1", "pool", "conv2", "flat", "y"]


def test_min_max_is_onnx_runtimes(tmp_path: Path) -> None:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    samples = samples_for(conv_net(), 6)
    found = collect(conv_net(), TENSORS, [("", s) for s in samples], "made").ranges(MinMax())
    expected = peers(calibrate, tmp_path, samples, calibrate.CalibrationMethod.MinMax)
    for name in TENSORS:
        low, high = expected[name]
        kept = found.by_tensor[name]
        assert [kept.min, kept.max] == pytest.approx([low.item(), high.item()], rel=1e-5, abs=1e-6), name


def test_percentile_is_onnx_runtimes_to_its_bin(tmp_path: Path) -> None:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    samples = samples_for(conv_net(), 6)
    located = [("", s) for s in samples]
    collected = collect(conv_net(), TENSORS, located, "made", counted=TENSORS)
    bins = 2048
    expected = peers(
        calibrate,
        tmp_path,
        samples,
        calibrate.CalibrationMethod.Percentile,
        num_bins=bins,
        percentile=99.0,
        symmetric=True,
    )
    for name in ("conv1", "conv2", "x"):
        high = float(np.abs(np.ravel(expected[name])).max())
        kept = collected.statistics[name]
        assert kept.histogram is not None
        full = max(-kept.smallest, kept.largest)
        found = Percentile(99.0)(kept).magnitude
        assert found == pytest.approx(high, abs=2 * full / bins + 2 * kept.histogram.width), name


def test_methods_agree_on_batches_of_the_same_values() -> None:
    graph = net([node("Relu", "x", "y")], {"x": ["batch", 500]}, ["y"])
    rows = drawn(normal)[:16_000].reshape(32, 500)
    ones = collect(graph, ["x", "y"], [("", {"x": r[None]}) for r in rows], "made", counted=["x", "y"])
    whole = collect(graph, ["x", "y"], [("", {"x": rows})], "made", counted=["x", "y"])
    for name in ("min-max", "percentile", "entropy", "mse"):
        assert ones.ranges(METHODS[name]()).by_tensor == whole.ranges(METHODS[name]()).by_tensor
