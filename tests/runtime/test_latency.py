"""Timing a session."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import tiny

from edgebig.errors import InputError, UsageError
from edgebig.runtime import bench, load


def test_figures_are_ordered_and_agree(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.mlp()})
    feeds = {"x": np.zeros((1, 8), np.float32)}
    with load(tmp_path / "b", threads=1) as session:
        before = perf_counter()
        found = bench(session, feeds, 0.2)
        took = perf_counter() - before
    assert 0 < found.p50_ms <= found.p90_ms <= found.p99_ms
    assert 0.2 <= took < 2
    assert found.runs > 10
    # the time of the runs alone is within that of the whole loop, which lasted the 0.2 s asked and one run more
    assert found.runs * found.mean_ms / 1e3 <= found.runs / found.throughput_per_s < took
    assert found.runs / found.throughput_per_s >= 0.2


def test_short_measurements_hold_one_run(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.mlp()})
    with load(tmp_path / "b") as session:
        assert bench(session, {"x": np.zeros((1, 8), np.float32)}, 1e-9).runs == 1
        with pytest.raises(UsageError, match="the time to measure must be above 0 seconds, found 0"):
            bench(session, {}, 0)
        with pytest.raises(InputError, match="x missing"):
            bench(session, {}, 1)
