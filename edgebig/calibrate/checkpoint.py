"""Checkpoint: the statistics so far, so that an interrupted calibration continues where it was."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from edgebig.cache import CacheFile
from edgebig.calibrate.histogram import HALF
from edgebig.calibrate.samples import Sample
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
            # read whole before anything is filled: a damaged file must not leave half of it behind
            found = [
                (half[name], row, arrays.get(f"{number}.{index}"))
                for number, half in enumerate(halves)
                for index, (name, row) in enumerate(meta["halves"][number].items())
            ]
            for statistics, row, counts in found:
                _fill(statistics, row, counts)
            state = {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}
            return int(meta["count"]), state
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            self._file.remove()
            return 0, {}

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


def _fill(statistics: TensorStatistics, row: Mapping[str, Any], counts: np.ndarray[Any, Any] | None) -> None:
    if statistics.histogram is not None:
        if counts is None or counts.shape != (2 * HALF,):
            raise ValueError("no counts, or of another size")
        statistics.histogram.exponent = row["exponent"]
        statistics.histogram.counts = counts.astype(np.int64)
    statistics.samples, statistics.unbounded = int(row["samples"]), int(row["unbounded"])
    statistics.smallest, statistics.largest = (float(text) for text in row["extremes"])
    statistics.sums = [int(text) for text in row["sums"]]
