"""Checkpoint: the statistics so far, so that an interrupted calibration continues where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from edgebig.cache import CacheFile
from edgebig.calibrate.counting import HALF
from edgebig.calibrate.data.samples import Sample
from edgebig.calibrate.statistics import TensorStatistics

_EVERY_SECONDS = 5.0

Halves = Sequence[Mapping[str, TensorStatistics]]


@dataclass(frozen=True)
class Progress:
    """Which samples statistics hold.

    Attributes:
        count: number of the last of them; they are numbered from 1.
        missing: numbers before it that are not in: those of samples that failed while later ones ran.
        state: what a recurrent model carries into the next sample.
    """

    count: int = 0
    missing: tuple[int, ...] = ()
    state: Sample = field(default_factory=dict)

    @classmethod
    def of(cls, finished: Collection[int], state: Sample) -> Progress:
        """That of these numbers."""
        count = max(finished, default=0)
        return cls(count, tuple(n for n in range(1, count + 1) if n not in finished), state)

    def finished(self) -> set[int]:
        """The numbers of the samples that are in."""
        return set(range(1, self.count + 1)) - set(self.missing)


class Checkpoint:
    """Saves statistics now and then, and gives them back.

    What is kept holds counts, extremes and a recurrent model's state; no sample.
    """

    def __init__(self, file: CacheFile) -> None:
        self._file = file
        self._last = time.monotonic()

    def load(self, halves: Halves) -> Progress:
        """Fills the statistics; returns what they hold, nothing where none were kept."""
        path = self._file.read()
        if path is None:
            return Progress()
        try:
            with np.load(path, allow_pickle=False) as kept:
                arrays = dict(kept)
            meta = json.loads(str(arrays["meta"]))
            count, missing = int(meta["count"]), tuple(map(int, meta["missing"]))
            # read whole before anything is filled: a damaged file must not leave half of it behind
            found = [
                (statistics, _read(rows[name], statistics, arrays.get(f"{number}.{index}")))
                for number, (half, rows) in enumerate(zip(halves, meta["halves"], strict=True))
                for index, (name, statistics) in enumerate(half.items())
            ]
        except Exception:  # a damaged file raises whatever its readers come upon
            self._file.remove()
            return Progress()
        for statistics, kept in found:
            statistics.merge(kept)
        state = {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}
        return Progress(count, missing, state)

    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._last >= _EVERY_SECONDS

    def save(self, halves: Halves, progress: Progress) -> None:
        """Keeps the statistics of these samples."""
        arrays: dict[str, Any] = {f"state.{name}": array for name, array in progress.state.items()}
        rows = []
        for number, half in enumerate(halves):
            rows.append({name: _row(statistics) for name, statistics in half.items()})
            for index, statistics in enumerate(half.values()):
                if statistics.histogram is not None:
                    arrays[f"{number}.{index}"] = statistics.histogram.counts
        arrays["meta"] = np.array(json.dumps({"count": progress.count, "missing": progress.missing, "halves": rows}))

        def write(stream: BinaryIO) -> None:
            np.savez(stream, allow_pickle=False, **arrays)

        self._file.write(write)
        self._last = time.monotonic()


def _row(statistics: TensorStatistics) -> dict[str, Any]:
    histogram = statistics.histogram
    return {
        "samples": statistics.samples,
        "unbounded": statistics.unbounded,
        "extremes": [repr(statistics.smallest), repr(statistics.largest)],
        "sums": [str(total) for total in statistics.sums],
        "exponent": histogram.exponent if histogram is not None else None,
    }


def _read(row: Mapping[str, Any], like: TensorStatistics, counts: np.ndarray[Any, Any] | None) -> TensorStatistics:
    kept = TensorStatistics(counted=like.histogram is not None)
    if kept.histogram is not None:
        if counts is None or counts.shape != (2 * HALF,):
            raise ValueError("no counts, or of another size")
        kept.histogram.exponent = None if row["exponent"] is None else int(row["exponent"])
        kept.histogram.counts = counts.astype(np.int64)
    kept.samples, kept.unbounded = int(row["samples"]), int(row["unbounded"])
    kept.smallest, kept.largest = (float(text) for text in row["extremes"])
    kept.sums = [int(text) for text in row["sums"]]
    return kept
