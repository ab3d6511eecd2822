"""What a listener hears of the stages, and what is kept of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgebig.stages import NAMES, Event, StageLog


def test_events_come_in_order_and_progress_is_not_kept() -> None:
    heard: list[Event] = []
    log = StageLog(heard.append)
    with log.stage("graph") as notes:
        notes.note("folded 3 constants", "removed 2 nodes")
        notes.progress("half way")
        notes.decline("left an If: it depends on x")
    with log.stage("build"):
        pass
    assert [(e.kind, e.number, e.total, e.stage, e.text) for e in heard] == [
        ("start", 2, 6, "graph", ""),
        ("note", 2, 6, "graph", "folded 3 constants"),
        ("note", 2, 6, "graph", "removed 2 nodes"),
        ("progress", 2, 6, "graph", "half way"),
        ("declined", 2, 6, "graph", "left an If: it depends on x"),
        ("end", 2, 6, "graph", ""),
        ("start", 5, 6, "build", ""),
        ("end", 5, 6, "build", ""),
    ]
    first, second = log.stages
    assert (first.name, first.notes) == ("graph", ("folded 3 constants", "removed 2 nodes"))
    assert first.declined == ("left an If: it depends on x",) and second.notes == ()
    assert heard[5].seconds >= first.seconds - 1e-3 >= -1e-3
    assert NAMES == ("source", "graph", "calibrate", "quantize", "build", "verify")


def test_a_stage_that_fails_is_not_kept_and_its_error_goes_on() -> None:
    heard: list[Event] = []
    log = StageLog(heard.append)
    with pytest.raises(KeyError), log.stage("source"):
        raise KeyError("x")
    assert log.stages == [] and [e.kind for e in heard] == ["start"]


def test_nobody_needs_to_listen() -> None:
    log = StageLog(None)
    with log.stage("verify") as notes:
        notes.note("fine")
    assert log.stages[0].notes == ("fine",)


_STAGES = """
import numpy as np
from edgebig.stages import StageLog

log = StageLog(None)
with log.stage("calibrate"):
    block = np.ones(64 << 20, np.uint8)
    del block
with log.stage("quantize"):
    pass
print(*(s.peak_memory_bytes for s in log.stages))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone forgets an earlier peak")
def test_the_peak_memory_is_the_stages_own() -> None:
    # in a process of its own: in one that has freed gigabytes the block may lie in memory that it kept
    done = subprocess.run([sys.executable, "-c", _STAGES], capture_output=True, text=True, check=True)
    large, small = map(int, done.stdout.split())
    assert large - small > 48 << 20 and small > 10 << 20
