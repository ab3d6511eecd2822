"""Items in order, overlapped, with back-pressure, and what happens when one fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runnets
import tiny

from edgebig.errors import InputError, StreamError, UsageError
from edgebig.runtime import Session, load
from edgebig.runtime.stream import stream

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1) as opened:
        yield opened


def feed(value: float) -> dict[str, Any]:
    return {"x": np.full((1, 3), value, np.float32)}


def no_threads() -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end and any(t.name.startswith("edgebig-stream") for t in threading.enumerate()):
        time.sleep(0.005)
    assert not [t for t in threading.enumerate() if t.name.startswith("edgebig-stream")]


def test_items_come_in_order_with_what_after_makes_of_them(session: Session) -> None:
    found = list(session.stream(range(50), before=feed, after=lambda item, outputs: (item, float(outputs["y"][0, 0]))))
    assert found == [(n, n + 1) for n in range(50)]
    assert [outputs["y"][0, 0] for outputs in session.stream([feed(1), feed(2)], depth=1)] == [2, 3]
    assert list(session.stream([])) == []
    assert session.stats().calls == 52
    no_threads()


def test_the_steps_overlap(session: Session) -> None:
    wait = 0.05

    def slow_feed(value: float) -> dict[str, Any]:
        time.sleep(wait)
        return feed(value)

    def slow_after(item: float, outputs: dict[str, Any]) -> float:
        time.sleep(wait)
        return item

    start = time.monotonic()
    assert list(session.stream(range(20), before=slow_feed, after=slow_after)) == list(range(20))
    assert time.monotonic() - start < 20 * 2 * wait * 0.85


def test_no_step_runs_far_ahead(session: Session) -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    items = session.stream(source(), depth=2, before=feed)
    next(items)
    time.sleep(0.2)
    assert len(read) <= 1 + 3 * 2 + 3  # given out, three queues, and one in each step's hands
    items.close()
    no_threads()


def test_several_runs_in_flight_keep_the_order() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def run(inputs: Any) -> dict[str, Any]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02 if inputs["x"] % 3 else 0.05)  # the first of three ends last
        with lock:
            running -= 1
        return {"y": inputs["x"] * 10}

    found = list(stream(range(24), run, 1, lambda n: {"x": n}, lambda n, outputs: (n, outputs["y"]), in_flight=3))
    assert found == [(n, n * 10) for n in range(24)]
    assert most == 3
    no_threads()


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize(
    ("broken", "step", "cause"),
    [
        ("read", "read", OSError),
        ("before", "before", ZeroDivisionError),
        ("run", "run", InputError),
        ("after", "after", KeyError),
    ],
)
def test_an_item_that_fails_ends_the_stream_and_is_named(
    session: Session, broken: str, step: str, cause: type[Exception], in_flight: int
) -> None:
    closed: list[bool] = []

    def source() -> Iterator[int]:
        try:
            for number in range(100):
                if broken == "read" and number == 3:
                    raise OSError("the camera is gone")
                yield number
        finally:
            closed.append(True)

    def before(number: int) -> dict[str, Any]:
        if number == 3 and broken == "before":
            raise ZeroDivisionError("oops")
        return {"x": np.zeros(2)} if number == 3 and broken == "run" else feed(number)

    def after(number: int, outputs: dict[str, Any]) -> int:
        if number == 3 and broken == "after":
            raise KeyError("label")
        return number

    found: list[int] = []
    with pytest.raises(StreamError, match=f"^item 3 of the stream: {step}: {cause.__name__}: ") as caught:
        for value in session.stream(source(), before=before, after=after, in_flight=in_flight):
            found.append(value)
    assert found == [0, 1, 2]
    assert isinstance(caught.value.__cause__, cause)
    assert (caught.value.item, caught.value.step, caught.value.exit_code) == (3, step, 19)
    no_threads()
    assert closed == [True]


def test_leaving_early_ends_the_threads(session: Session) -> None:
    for value in session.stream(range(1000), before=feed, after=lambda item, outputs: item):
        if value == 5:
            break
    no_threads()


def test_a_closed_session_ends_its_streams(session: Session) -> None:
    items = session.stream(range(1000), before=feed)
    next(items)
    session.close()
    with pytest.raises(StreamError, match="run: BackendError: the session is closed"):
        list(items)
    no_threads()


def test_bad_arguments_are_said_at_the_call(session: Session) -> None:
    with pytest.raises(UsageError, match="depth and in_flight must be 1 or more, found 0 and 1"):
        session.stream([], depth=0)
    with pytest.raises(UsageError, match="a stream needs something to iterate over, found int"):
        session.stream(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="depth and in_flight must be 1 or more, found 'two' and 1"):
        session.stream([], depth="two")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="after must be a function, found str"):
        session.stream([], after="draw")  # type: ignore[arg-type]


def test_a_data_set_with_items_by_number_is_a_source(session: Session) -> None:
    class Numbered:
        def __getitem__(self, number: int) -> dict[str, Any]:
            if number == 3:
                raise IndexError
            return feed(number)

    assert [outputs["y"][0, 0] for outputs in session.stream(Numbered())] == [1, 2, 3]  # type: ignore[arg-type]


def test_a_source_that_fails_to_close_is_logged(
    session: Session, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unhandled: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)

    def source() -> Iterator[Any]:
        try:
            while True:
                yield feed(1)
        finally:
            raise OSError("the camera does not close")

    items = session.stream(source())
    next(items)
    items.close()
    no_threads()
    assert "a stream's source failed to close: OSError: the camera does not close" in caplog.text
    assert unhandled == []


def test_leaving_early_stops_the_run(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": runnets.slow(nodes=3000)})
    with load(tmp_path / "b", threads=1) as session:
        feeds = {"x": np.ones((256, 256), np.float32)}
        items = session.stream(iter(lambda: feeds, None))
        start = time.monotonic()
        next(items)
        whole = time.monotonic() - start
        start = time.monotonic()
        items.close()
        assert time.monotonic() - start < whole / 2
        no_threads()
        assert session.stats().errors == 0, "it was not the model that failed"


_LEAVE = """
import atexit, sys, time
atexit.register(lambda: print(whole, time.monotonic() - start))  # after all that edgebig has for this moment
import numpy as np
import edgebig

session = edgebig.load(sys.argv[1], threads=1, in_flight=1)
feeds = {"x": np.ones((256, 256), np.float32)}
start = time.monotonic()
session.run(feeds)
whole = time.monotonic() - start
if sys.argv[2] == "stream":
    items = session.stream(iter(lambda: feeds, None))
    next(items)
else:
    session.run_async(feeds)
    while not session.stats().in_flight:
        pass
start = time.monotonic()
"""


@pytest.mark.parametrize("way", ["stream", "run_async"])
def test_the_end_of_the_process_stops_what_runs(tmp_path: Path, way: str) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": runnets.slow(nodes=3000)})
    program = [sys.executable, "-c", _LEAVE, str(tmp_path / "b"), way]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), "a thread that ends within an engine takes the process down"
    whole, took = map(float, done.stdout.split())
    assert took < whole / 2


_FORK = """
import os, sys
import numpy as np
import edgebig

with edgebig.load(sys.argv[1], threads=1) as session:
    items = session.stream(iter(lambda: {"x": np.zeros((1, 3), np.float32)}, None))
    next(items)
    child = os.fork()
    if child == 0:
        try:
            list(items)
        except edgebig.errors.BackendError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    next(items)
    items.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_has_no_stream(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    program = [sys.executable, "-c", _FORK, str(tmp_path / "b")]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    said = "the stream was begun before this process was forked, and its threads stay behind: begin another one"
    assert done.stdout.splitlines() == [said]
