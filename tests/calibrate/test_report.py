"""The report: clipped shares, stability between halves, what makes a set a bad one; and never a sample."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from nets import Sample, net, node, normal

from edgebig.calibrate import METHODS, Collected, MinMax, Range, SetCheck, collect, describe, unstable
from edgebig.calibrate.report import Stability, clipped_share, stability
from edgebig.calibrate.statistics import TensorStatistics
from edgebig.graph import Graph

Array = np.ndarray[Any, Any]


def of(values: Array) -> TensorStatistics:
    statistics = TensorStatistics(counted=True)
    statistics.update(float(values.min()), float(values.max()), values)
    return statistics


def relu() -> Graph:
    return net([node("Relu", "x", "y")], {"x": ["n"]}, ["y"])


def collected(rows: list[list[float]]) -> Collected:
    samples = [(f"s:{i}", {"x": np.float32(row)}) for i, row in enumerate(rows)]
    return collect(relu(), ["x", "y"], samples, "made", counted=["x"])


@pytest.mark.parametrize("bounds", [(-1, 1), (-0.5, 2), (0, 0.25), (-10, 10), (-3, -2), (1, 2)])
def test_the_clipped_share_is_exact_to_a_bin(bounds: tuple[float, float]) -> None:
    values = normal(10_000, seed=3)
    kept = of(values)
    assert kept.histogram is not None
    low, high = min(bounds[0], 0), max(bounds[1], 0)
    width = kept.histogram.width
    most = float(((values < low + width) | (values > high - width)).mean())
    least = float(((values < low - width) | (values > high + width)).mean())
    assert least <= clipped_share(kept, Range(*bounds)) <= most


def test_nothing_is_clipped_by_the_extremes_or_without_counts() -> None:
    kept = of(normal(1000))
    assert clipped_share(kept, MinMax()(kept)) == 0
    plain = TensorStatistics(counted=False)
    plain.update(-1.0, 1.0)
    assert clipped_share(plain, Range(0, 0.1)) == 0
    assert clipped_share(of(np.zeros(3, np.float32)), Range(0, 0)) == 0


def test_equal_halves_are_stable() -> None:
    found = collected([[1, -2], [1, -2], [2, 0], [0, 2]])
    assert stability(found, "x", MinMax()) == Stability(0.0, 0)
    assert unstable(found, MinMax(), ["x", "y"]) == []


def test_halves_that_differ() -> None:
    # the first half reaches 10, the second 9: they differ by a tenth, twice what is allowed
    found = collected([[10, 0], [9, 0], [1, 2], [3, 4]])
    stable = stability(found, "x", MinMax())
    assert stable is not None and stable.moved == pytest.approx(0.1)
    assert stable.wanted == math.ceil(4 * ((stable.moved / 0.05) ** 2 - 1)) == 12
    assert unstable(found, MinMax(), ["x"]) == [
        "the range of x differs by 10% between halves of the data: about 12 more samples would settle it"
    ]
    small = collected([[10, 0], [9.6, 0]])
    assert stability(small, "x", MinMax()) == Stability(pytest.approx(0.04, rel=1e-5), 0)  # type: ignore[arg-type]


def test_the_worst_come_first() -> None:
    graph = net([node("Exp", "x", "y")], {"x": ["n"]}, ["y"])
    samples = [(str(i), {"x": np.float32([v])}) for i, v in enumerate([3, 2])]
    found = collect(graph, ["x", "y"], samples, "made")
    assert [line.split()[3] for line in unstable(found, MinMax(), ["x", "y"])] == ["y", "x"]


def test_stability_that_cannot_be_told() -> None:
    assert stability(collected([[1, 2]]), "x", MinMax()) is None  # one half is empty
    assert stability(collected([[-1], [-2]]), "y", MinMax()) is None  # zero
    graph = net([node("Log", "x", "y")], {"x": ["n"]}, ["y"])
    found = collect(graph, ["y"], [("a", {"x": np.zeros(1, np.float32)})] * 2, "made")
    assert stability(found, "y", MinMax()) is None


def checked(samples: list[Sample], golden: list[Sample] | None = None, **bounds: tuple[float, float]) -> list[str]:
    check = SetCheck(bounds)
    for sample in samples:
        check.look(sample)
    return check.findings(golden or [])


def good(count: int = 8, seed: int = 0) -> list[Sample]:
    return [
        {"x": normal(1, 3, 4, seed=seed + i), "ids": np.arange(i, i + 4), "rate": np.float32([0.5])}
        for i in range(count)
    ]


def test_a_good_set_has_no_findings() -> None:
    assert checked(good(), good(2, seed=50), x=(-5, 5)) == []
    assert checked([]) == [] == checked(good(1))


def test_a_set_that_is_all_the_same() -> None:
    assert checked(good(1) * 5) == ["all 5 samples are the same"]
    assert checked(good(1) * 5 + good(2, seed=9)) == ["only 3 of 7 samples are different"]
    assert checked(good(3) * 2) == []


def test_constant_samples() -> None:
    grey = [{"x": np.full((1, 3, 4), i, np.float32)} for i in range(3)]
    assert checked(grey + [{"x": s["x"]} for s in good(3)]) == ["x is constant in 3 of 6 samples"]


def test_samples_out_of_the_processors_range() -> None:
    raw = [{"x": np.linspace(0, 250 + i, 12, dtype=np.float32)} for i in range(4)]
    assert checked(raw, x=(-2.1, 2.6)) == [
        "x reaches from 0 to 253, and the model's processor makes -2.1 to 2.6: the samples were prepared differently"
    ]
    assert checked(raw, x=(0, 255), other=(0, 1)) == []
    # rounding of the last bit is no sign
    assert checked(raw, x=(1e-6, 252.999)) == []


def test_samples_far_from_the_golden_inputs() -> None:
    far = [{"x": s["x"] + np.float32(9)} for s in good(2, seed=70)]
    (line,) = checked(good(), far)
    assert line.startswith("x has the mean ") and line.endswith(": far from them") and " golden inputs 9" in line


@pytest.fixture
def report() -> dict[str, Any]:
    graph = net([node("Log", "x", "log"), node("Neg", "x", "y"), node("Neg", "zero", "still")], *STILL)
    random = np.random.default_rng(0)
    samples = [(str(i), {"x": np.append(random.exponential(size=9999), 0).astype(np.float32)}) for i in range(4)]
    names = ["x", "log", "y", "still"]
    found = collect(graph, names, samples, "made", counted=["x", "log", "still"])
    return describe(found, [make() for make in METHODS.values()])


STILL: Any = ({"x": ["n"]}, ["log", "y", "still"], {"zero": np.zeros(3, np.float32)})


def test_the_report_is_plain_json_even_with_infinities(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["method"] == "min-max" and report["methods"] == list(METHODS)
    assert report["samples"] == 4 and report["source"] == "made"
    tensors = report["tensors"]
    assert tensors["log"]["min"] == "-inf" and tensors["log"]["moved"] is None
    assert {r[0] for r in tensors["log"]["ranges"].values()} == {"-inf"}
    assert set(tensors["x"]["ranges"]) == set(tensors["x"]["clipped"]) == set(METHODS)
    assert tensors["x"]["clipped"]["min-max"] == 0 < tensors["x"]["clipped"]["percentile"] < 1e-3
    assert tensors["still"]["ranges"]["entropy"] == [0, 0] and "histogram" not in tensors["still"]
    assert "histogram" not in tensors["y"]


def test_the_report_holds_counts_and_no_sample(report: dict[str, Any]) -> None:
    histogram = report["tensors"]["x"]["histogram"]
    assert len(histogram["counts"]) == 32 and sum(histogram["counts"]) == 40_000
    assert sum(histogram["counts"][:16]) == 0
    assert report["tensors"]["x"]["max"] <= 16 * histogram["width"] < 4 * report["tensors"]["x"]["max"]

    def lists(value: Any) -> list[int]:
        if isinstance(value, dict):
            return [n for v in value.values() for n in lists(v)]
        return [len(value)] if isinstance(value, list) else []

    assert max(lists(report)) == 32
