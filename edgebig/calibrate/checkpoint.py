"""Checkpoint: the statistics so far, so that an interrupted calibration continues where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from edgebig.cache import CacheFile
from edgebig.calibrate.data.samples import Sample
from edgebig.calibrate.histogram import HALF
from edgebig.calibrate.statistics import TensorStatistics

_EVERY_SECONDS = 5.0

Halves = Sequence[Mapping[str, TensorStatistics]]


class Checkpoint:
    """Saves statistics now and then, and gives them back.

    What is kept holds counts, extremes and a recurrent model's state; no sample.
    """

    def __init__(self, file: CacheFile) -> None:
        self._file = file
        self._last = time.monotonic()

    def load(self, halves: Halves) -> tuple[int, Sample]:
        """Fills the statistics; returns the number of samples that they hold and the state, 0 where none were kept."""
        path = self._file.read()
        if path is None:
            return 0, {}
        try:
            with np.load(path, allow_pickle=False) as kept:
                arrays = dict(kept)
            meta = json.loads(str(arrays["meta"]))
            count = int(meta["count"])
            # read whole before anything is filled: a damaged file must not leave half of it behind
            found = [
                (statistics, _read(rows[name], statistics, arrays.get(f"{number}.{index}")))
                for number, (half, rows) in enumerate(zip(halves, meta["halves"], strict=True))
                for index, (name, statistics) in enumerate(half.items())
            ]
        except Exception:  # a damaged file raises whatever its readers come upon
            self._file.remove()
            return 0, {}
        for statistics, kept in found:
            statistics.merge(kept)
        return count, {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}

    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._last >= _EVERY_SECONDS

    def save(self, halves: Halves, count: int, state: Sample) -> None:
        """Keeps the statistics of the first ``count`` samples."""
        arrays: dict[str, Any] = {f"state.{name}": array for name, array in state.items()}
        rows = []
        for number, half in enumerate(halves):
            rows.append({name: _row(statistics) for name, statistics in half.items()})
            for index, statistics in enumerate(half.values()):
                if statistics.histogram is not None:
                    arrays[f"{number}.{index}"] = statistics.histogram.counts
        arrays["meta"] = np.array(json.dumps({"count": count, "halves": rows}))

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
