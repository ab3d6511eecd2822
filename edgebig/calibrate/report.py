"""The calibration report: how far the ranges can be trusted."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgebig.calibrate.collect import Collected, range_of
from edgebig.calibrate.data.samples import Sample
from edgebig.calibrate.methods import Method
from edgebig.calibrate.ranges import Range
from edgebig.calibrate.statistics import TensorStatistics

MOVED = 0.05
"""A range that moves by more between halves of the data is named."""

_BARS = 32


@dataclass(frozen=True)
class Stability:
    """How much a tensor's range depends on which samples were taken.

    Attributes:
        moved: difference of the magnitudes that two halves of the data give, over that of all of it.
        wanted: further samples after which it should move by less than 5 %, if the difference falls
            with the square root of their number.
    """

    moved: float
    wanted: int


def stability(collected: Collected, name: str, method: Method) -> Stability | None:
    """Compares the halves; ``None`` where one of them is empty or the tensor is zero."""
    first, second = (half[name] for half in collected.halves)
    whole = range_of(collected.statistics[name], method).magnitude
    if not (first.samples and second.samples) or whole == 0 or not math.isfinite(whole):
        return None
    ranges = [range_of(half, method).magnitude for half in (first, second)]
    moved = abs(ranges[0] - ranges[1]) / whole
    wanted = math.ceil(collected.samples * ((moved / MOVED) ** 2 - 1)) if moved > MOVED else 0
    return Stability(moved, wanted)


def clipped_share(kept: TensorStatistics, value_range: Range) -> float:
    """Share of the values outside a range that was widened to hold 0, exact to a bin; 0 without a histogram."""
    histogram = kept.histogram
    if histogram is None or histogram.exponent is None or histogram.total == 0:
        return 0.0
    width = histogram.width
    lower = np.arange(len(histogram.counts)) - len(histogram.counts) // 2
    below, above = min(value_range.min, 0.0), max(value_range.max, 0.0)
    outside = ((lower + 1) * width <= below) | (lower * width > above)
    return float(histogram.counts[outside].sum() / histogram.total)


def describe(collected: Collected, methods: Sequence[Method]) -> dict[str, Any]:
    """The report as the bundle holds it: statistics of each tensor, and no sample.

    Args:
        collected: over all samples.
        methods: those whose ranges are reported; the first is the one that is used.
    """
    tensors = {name: _describe(collected, name, methods) for name in collected.statistics}
    return {
        "method": methods[0].name,
        "methods": [m.name for m in methods],
        "samples": collected.samples,
        "source": collected.source,
        "tensors": tensors,
    }


def unstable(collected: Collected, method: Method, tensors: Sequence[str]) -> list[str]:
    """A line for each of the tensors whose range would still move by more than 5 %, the worst first."""
    found = {name: stability(collected, name, method) for name in tensors}
    moved = {name: s for name, s in found.items() if s is not None and s.moved > MOVED}
    worst = sorted(moved, key=lambda name: -moved[name].moved)
    return [
        f"the range of {name} differs by {moved[name].moved:.0%} between halves of the data: "
        f"about {moved[name].wanted} more samples would settle it"
        for name in worst
    ]


@dataclass
class SetCheck:
    """Looks at the samples as they pass, and names what makes a set a bad one.

    Attributes:
        bounds: for each input, the smallest and largest value that its processor can make.
    """

    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._digests: set[bytes] = set()
        self._count = 0
        self._constant: dict[str, int] = {}
        self._seen: dict[str, Range] = {}
        self._sums: dict[str, tuple[int, float, float]] = {}

    def look(self, sample: Sample) -> None:
        """Takes one sample; only digests and extremes are kept."""
        digest = hashlib.sha256()
        self._count += 1
        for name, array in sample.items():
            digest.update(np.ascontiguousarray(array).tobytes())
            if array.size == 0 or array.dtype.kind not in "fiu":
                continue
            found = Range(float(array.min()), float(array.max()))
            if array.dtype.kind == "f":
                # a single value is no sign of anything
                self._constant[name] = self._constant.get(name, 0) + (array.size > 1 and found.min == found.max)
                wide = array.astype(np.float64)
                count, total, squares = self._sums.get(name, (0, 0.0, 0.0))
                self._sums[name] = count + array.size, total + float(wide.sum()), squares + float((wide**2).sum())
            self._seen[name] = found.merge(self._seen[name]) if name in self._seen else found
        self._digests.add(digest.digest())

    def findings(self, golden: Sequence[Sample]) -> list[str]:
        """What is wrong with the set, a line each; ``golden`` are the inputs that the result is judged by."""
        lines = []
        if self._count > 1 and len(self._digests) == 1:
            lines.append(f"all {self._count} samples are the same")
        elif len(self._digests) < 0.5 * self._count:
            lines.append(f"only {len(self._digests)} of {self._count} samples are different")
        lines += [f"{name} is constant in {n} of {self._count} samples" for name, n in self._constant.items() if n]
        for name, (low, high) in self.bounds.items():
            seen = self._seen.get(name)
            slack = 1e-3 * max(high - low, 1e-6)
            if seen is not None and (seen.min < low - slack or seen.max > high + slack):
                lines.append(
                    f"{name} reaches from {seen.min:.3g} to {seen.max:.3g}, and the model's processor makes "
                    f"{low:.3g} to {high:.3g}: the samples were prepared differently"
                )
        return lines + self._far(golden)

    def _far(self, golden: Sequence[Sample]) -> list[str]:
        lines = []
        for name, (count, total, squares) in self._sums.items():
            values = [g[name].astype(np.float64).ravel() for g in golden if name in g]
            if not values or count == 0:
                continue
            joined = np.concatenate(values)
            mean = total / count
            spread = math.sqrt(max(squares / count - mean**2, 0.0))
            if joined.size and spread > 0 and abs(float(joined.mean()) - mean) > 3 * spread:
                lines.append(
                    f"{name} has the mean {mean:.3g}, the golden inputs {float(joined.mean()):.3g}: far from them"
                )
        return lines


def _describe(collected: Collected, name: str, methods: Sequence[Method]) -> dict[str, Any]:
    kept = collected.statistics[name]
    ranges = {m.name: range_of(kept, m) for m in methods}
    moved = stability(collected, name, methods[0])
    described: dict[str, Any] = {
        "min": _plain(kept.smallest if kept.samples else 0.0),
        "max": _plain(kept.largest if kept.samples else 0.0),
        "ranges": {k: [_plain(r.min), _plain(r.max)] for k, r in ranges.items()},
        "clipped": {k: clipped_share(kept, r) for k, r in ranges.items()},
        "moved": None if moved is None else round(moved.moved, 6),
    }
    if kept.histogram is not None and kept.histogram.exponent is not None:
        counts = kept.histogram.counts
        described["histogram"] = {
            "width": kept.histogram.width * (len(counts) // _BARS),
            "counts": counts.reshape(_BARS, -1).sum(axis=1).tolist(),
        }
    return described


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
