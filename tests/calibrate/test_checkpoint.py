"""An interrupted calibration continues, and ends with the statistics of one that was not interrupted."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import Sample, net, node, normal

from edgebig.cache import CacheFile
from edgebig.calibrate import Checkpoint, Collected, RecurrentState, collect, find_states
from edgebig.calibrate import checkpoint as module
from edgebig.calibrate.checkpoint import Progress
from edgebig.calibrate.statistics import TensorStatistics
from edgebig.errors import CalibrationError
from edgebig.graph import Graph

ROOT = Path(__file__).resolve().parents[2]
Located = list[tuple[str, Sample]]
NAMES = ["x", "wx", "stateN", "turned", "y"]


@pytest.fixture(autouse=True)
def _after_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.0)


def plain() -> Graph:
    """The part without state of the net below."""
    return net(
        [node("MatMul", "x w", "wx"), node("Tanh", "wx", "stateN"), *tail()],
        {"x": ["batch", 3]},
        ["y", "stateN"],
        {"w": normal(3, 3, seed=1)},
    )


def recurrent() -> Graph:
    return net(
        [node("MatMul", "x w", "wx"), node("Add", "wx state", "sum"), node("Tanh", "sum", "stateN"), *tail()],
        {"x": ["batch", 3], "state": ["batch", 3]},
        ["y", "stateN"],
        {"w": normal(3, 3, seed=1)},
    )


def tail() -> list[Any]:
    return [node("Transpose", "stateN", "turned", perm=[1, 0]), node("Neg", "turned", "y")]


def samples(count: int = 7) -> Located:
    """Two recordings, the second from sample 4 on."""
    return [
        (f"a.wav[{i}]" if i < 4 else f"b.wav[{i - 4}]", {"x": normal(1, 3, seed=i, scale=i + 1.0)})
        for i in range(count)
    ]


def run(make: Callable[[], Graph], data: Any, file: CacheFile | None, tick: Any = None) -> Collected:
    graph = make()
    states = find_states(graph.inputs, graph.outputs)
    return collect(
        graph,
        NAMES,
        data,
        "made",
        counted=["x", "stateN", "turned", "y"],
        tick=tick,
        feedback=RecurrentState(states, graph.inputs) if states else None,
        checkpoint=None if file is None else Checkpoint(file),
    )


def state(collected: Collected) -> Any:
    def of(s: Any) -> Any:
        histogram = None if s.histogram is None else (s.histogram.exponent, s.histogram.counts.tobytes())
        return s.samples, s.unbounded, s.smallest, s.largest, s.sums, histogram

    parts = (collected.statistics, *collected.halves)
    return collected.samples, [{name: of(s) for name, s in part.items()} for part in parts]


def stop_at(wanted: int, count: int) -> None:
    if count == wanted:
        raise KeyboardInterrupt


@pytest.mark.parametrize("make", [plain, recurrent])
@pytest.mark.parametrize("stop", range(1, 8))
def test_an_interrupted_run_continues(make: Callable[[], Graph], stop: int, tmp_path: Path) -> None:
    file = CacheFile(tmp_path, "c.npz")
    with pytest.raises(KeyboardInterrupt):
        run(make, samples(), file, functools.partial(stop_at, stop))
    assert file.read() is not None
    ran: list[int] = []
    assert state(run(make, samples(), file, ran.append)) == state(run(make, samples(), None))
    assert ran == list(range(1, 8))


@pytest.mark.parametrize("make", [plain, recurrent])
def test_twice_interrupted(make: Callable[[], Graph], tmp_path: Path) -> None:
    file = CacheFile(tmp_path, "c.npz")
    for stop in (3, 3, 6):
        with pytest.raises(KeyboardInterrupt):
            run(make, samples(), file, functools.partial(stop_at, stop))
    assert state(run(make, samples(), file)) == state(run(make, samples(), None))


def test_an_error_amid_the_data_leaves_what_was_whole(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, Sample]]:
        yield from samples()[:5]
        raise OSError("gone")

    file = CacheFile(tmp_path, "c.npz")
    with pytest.raises(OSError, match="gone"):
        run(recurrent, broken(), file)
    assert state(run(recurrent, samples(), file)) == state(run(recurrent, samples(), None))


@pytest.fixture
def never_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVERY_SECONDS", 3600.0)


@pytest.mark.parametrize("make", [plain, recurrent])
@pytest.mark.usefixtures("never_due")
def test_what_was_finished_before_an_error_is_kept(make: Callable[[], Graph], tmp_path: Path) -> None:
    """Sample 5 of 7 is bad, while later ones run beside it; when it is mended, the rest is run, and only that."""
    bad = samples()
    bad[4] = (bad[4][0], {"x": np.full((1, 3), np.nan, np.float32)})
    file = CacheFile(tmp_path, "c.npz")
    with pytest.raises(CalibrationError, match=r"tensor 'x' became NaN on b.wav\[0\]"):
        run(make, bad, file)
    empty = run(make, samples(1), None).halves
    for half in empty:
        half.update({name: TensorStatistics(counted=s.histogram is not None) for name, s in half.items()})  # type: ignore[attr-defined]
    progress = Checkpoint(file).load(empty)
    assert progress.finished() == {1, 2, 3, 4, *range(6, progress.count + 1)}
    assert sum(half["x"].samples for half in empty) == len(progress.finished())
    # samples that are in are not run again: others in their place change nothing
    mended = [s if n == 5 or n > progress.count else (s[0], {"x": s[1]["x"] * 9}) for n, s in enumerate(samples(), 1)]
    assert state(run(make, mended, file)) == state(run(make, samples(), None))


_CHILD = """
import sys, time
from pathlib import Path
from test_checkpoint import plain, run, samples
from edgebig.cache import CacheFile

def endless():
    for i, sample in enumerate(samples() * 1000):
        if i == 7:
            time.sleep(0.5)  # so that all before are finished
            print("reached", flush=True)
        if i > 7:
            time.sleep(0.05)
        yield sample

run(plain, endless(), CacheFile(Path(sys.argv[1]), "c.npz"))
"""


@pytest.mark.usefixtures("never_due")
def test_an_interrupt_loses_nothing(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        # a suite that runs in the background may have been told to ignore the interrupt
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "reached\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert errors.strip().endswith("KeyboardInterrupt")
    file = CacheFile(tmp_path, "c.npz")
    empty = [{name: TensorStatistics(counted=name != "wx") for name in NAMES} for _ in range(2)]
    progress = Checkpoint(file).load(empty)
    assert progress.count >= 7 and progress.missing == ()
    before = (samples() * 1000)[: progress.count]
    # samples that are in are not run again: others in their place change nothing
    others = [(where, {"x": s["x"] * 9}) for where, s in before]
    assert state(run(plain, others, file)) == state(run(plain, before, None))


def test_finished_statistics_are_taken_as_they_are(tmp_path: Path) -> None:
    file = CacheFile(tmp_path, "c.npz")
    first = state(run(plain, samples(), file))
    # the samples are not run again: others give the same
    others = [(where, {"x": s["x"] * np.float32(100)}) for where, s in samples()]
    assert state(run(plain, others, file)) == first


def test_no_sample_is_kept(tmp_path: Path) -> None:
    file = CacheFile(tmp_path, "c.npz")
    run(recurrent, samples(), file)
    path = file.read()
    assert path is not None
    with np.load(path) as kept:
        arrays = dict(kept)
    for _, sample in samples():
        assert all(sample["x"].tobytes() not in array.tobytes() for array in arrays.values())
    counts = [a for name, a in arrays.items() if name[0] in "01"]
    assert len(counts) == 8 and {a.shape for a in counts} == {(8192,)}


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "npy", "flipped", "other", "uncounted", "fewer"])
def test_a_damaged_file_is_passed_over_and_removed(damage: str, tmp_path: Path) -> None:
    file = CacheFile(tmp_path, "c.npz")
    with pytest.raises(KeyboardInterrupt):
        run(plain, samples(), file, functools.partial(stop_at, 5))
    path = tmp_path / "c.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    contents = {"empty": b"", "cut": bytes(data[: len(data) // 2]), "text": b"no archive", "flipped": bytes(data)}
    if damage in contents:
        path.write_bytes(contents[damage])
    elif damage == "npy":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    else:
        with np.load(path) as kept:
            arrays = dict(kept)
        gone = {"other": "meta", "uncounted": "1.3", "fewer": "0.0"}[damage]
        del arrays[gone]
        np.savez(path, **arrays)
    halves = [dict(half) for half in run(plain, samples(1), None).halves]
    empty = [{name: type(s)(counted=s.histogram is not None) for name, s in half.items()} for half in halves]
    assert Checkpoint(file).load(empty) == Progress()
    assert not path.exists()
    # nothing of it was filled in
    assert all(s.samples == 0 and (s.histogram is None or s.histogram.total == 0) for h in empty for s in h.values())
    assert state(run(plain, samples(), file)) == state(run(plain, samples(), None))


def test_whatever_byte_is_damaged_the_result_is_the_same(tmp_path: Path) -> None:
    file = CacheFile(tmp_path, "c.npz")
    with pytest.raises(KeyboardInterrupt):
        run(plain, samples(), file, functools.partial(stop_at, 5))
    whole, expected = (tmp_path / "c.npz").read_bytes(), state(run(plain, samples(), None))
    chosen = random.Random(0)
    # most bytes are counts: half of the damage goes to the archive's directory at the end
    places = [chosen.randrange(len(whole)) for _ in range(12)] + [-chosen.randrange(1, 900) for _ in range(12)]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << chosen.randrange(8)
        (tmp_path / "c.npz").write_bytes(data)
        assert state(run(plain, samples(), file)) == expected, place


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    file = CacheFile(tmp_path / "file" / "deeper", "c.npz")
    assert state(run(plain, samples(), file)) == state(run(plain, samples(), None))
