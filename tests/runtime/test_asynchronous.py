"""Runs in threads: order, deadlines, cancelling, back-pressure, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runnets
import tiny

from edgebig.errors import BackendError, DeadlineError, InputError, UsageError
from edgebig.runtime import Session, load
from edgebig.runtime.core import Loaded
from edgebig.spec import TensorSpec

SPEC = TensorSpec("x", "float32", (1,))


class Held:
    """A backend whose runs wait until they are let go: ``y = x``."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.seen: list[float] = []
        self.closed = False

    def run(self, outputs: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
        self.seen.append(float(feeds["x"][0]))
        self.begun.release()
        assert self.go.wait(20)
        return [feeds["x"]]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def held() -> Iterator[Held]:
    backend = Held()
    yield backend
    backend.go.set()


def session_of(backend: Any, **options: int) -> Session:
    return Session(Loaded(backend, "held", [SPEC], [TensorSpec("y", "float32", (1,))]), **options)


def x(value: float) -> dict[str, Any]:
    return {"x": np.array([value], np.float32)}


def until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def test_several_runs_are_in_flight_and_each_gets_its_own(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1, in_flight=3) as session:
        futures = [session.run_async({"x": np.full((1, 3), n, np.float32)}) for n in range(100)]
        assert [future.result(10)["y"][0, 0] for future in futures] == [n + 1 for n in range(100)]
        chosen = session.run_async({"x": np.zeros((1, 3), np.float32)}, outputs=["y"])
        assert list(chosen.result(10)) == ["y"]
        assert session.stats().calls == 101


def test_what_does_not_fit_is_said_at_the_call(held: Held) -> None:
    session = session_of(held)
    with pytest.raises(InputError, match="input 'x' must be float32 1"):
        session.run_async({"x": np.zeros(1)})
    with pytest.raises(InputError, match="no output 'z'"):
        session.run_async(x(0), outputs=["z"])
    with pytest.raises(UsageError, match="timeout must be 0 seconds or more, found -1"):
        session.run(x(0), timeout=-1)
    with pytest.raises(UsageError, match="in_flight must be 1 or more, found 0"):
        load("nowhere", in_flight=0)
    with pytest.raises(UsageError, match="timeout must be 0 seconds or more, found 'soon'"):
        session.run_async(x(0), timeout="soon")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="threads must be a whole number, found 1.5"):
        load("nowhere", threads=1.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="in_flight must be 1 or more and 2147483647 at most, found 2147483648"):
        load("nowhere", in_flight=1 << 31)
    assert session.stats().errors == 2


@pytest.mark.parametrize("endless", [float("inf"), 1e300, 10**400, threading.TIMEOUT_MAX])
def test_a_time_without_end_disturbs_no_other_deadline(held: Held, endless: float) -> None:
    session = session_of(held, in_flight=1)
    waiting = session.run_async(x(1), timeout=endless)
    late = session.run_async(x(2), timeout=0.05)
    with pytest.raises(DeadlineError):
        late.result(10)
    held.go.set()
    assert waiting.result(10)["y"].tolist() == [1]
    assert session.run(x(3), timeout=endless)["y"].tolist() == [3]
    assert session.run(x(4), timeout=np.float32(20))["y"].tolist() == [4]  # type: ignore[arg-type]
    session.close()


def test_a_late_result_is_dropped_and_counted(held: Held) -> None:
    session = session_of(held, in_flight=1)
    start = time.monotonic()
    with pytest.raises(
        DeadlineError, match=r"^no result within 0\.05 s: the time was over while it ran: raise"
    ) as caught:
        session.run(x(1), timeout=0.05)
    assert 0.05 <= time.monotonic() - start < 5
    assert isinstance(caught.value, TimeoutError) and caught.value.exit_code == 18
    future = session.run_async(x(2), timeout=0.05)
    with pytest.raises(DeadlineError, match=r"^no result within 0\.05 s: the time was over before it began: raise"):
        future.result(10)
    assert session.stats().drops == 2
    held.go.set()
    assert session.run(x(3), timeout=10)["y"].tolist() == [3]
    assert held.seen == [1, 3], "what waited too long is not run any more"
    stats = session.stats()
    assert (stats.drops, stats.errors, stats.queue_depth, stats.in_flight) == (2, 0, 0, 0)
    session.close()


def test_onnx_runtime_is_told_to_stop(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": runnets.slow(nodes=3000)})
    with load(tmp_path / "b", threads=1, in_flight=1) as session:
        feeds = {"x": np.ones((256, 256), np.float32)}
        start = time.monotonic()
        session.run(feeds)
        whole = time.monotonic() - start
        with pytest.raises(DeadlineError):
            session.run(feeds, timeout=whole / 50)
        start = time.monotonic()
        until(lambda: session.stats().in_flight == 0)
        assert time.monotonic() - start < whole / 2
        stats = session.stats()
        assert (stats.calls, stats.drops, stats.errors) == (1, 1, 0)
        np.testing.assert_array_equal(session.run(feeds)["y"], feeds["x"])


def test_what_has_not_begun_can_be_cancelled(held: Held) -> None:
    session = session_of(held, in_flight=1)
    first, second, third = (session.run_async(x(n)) for n in (1, 2, 3))
    assert held.begun.acquire(timeout=10)
    assert not first.cancel() and second.cancel()
    held.go.set()
    assert third.result(10)["y"].tolist() == [3]
    assert first.result(10)["y"].tolist() == [1]
    with pytest.raises(CancelledError):
        second.result(10)
    assert held.seen == [1, 3]
    session.close()


def test_a_full_queue_makes_the_caller_wait(held: Held) -> None:
    session = session_of(held, in_flight=1, queue=2)
    futures = [session.run_async(x(n)) for n in range(1)]
    assert held.begun.acquire(timeout=10)
    futures += [session.run_async(x(n)) for n in (1, 2)]
    assert (session.stats().queue_depth, session.stats().in_flight) == (2, 1)
    with pytest.raises(DeadlineError, match=r"^no room within 0\.05 s: 2 runs are waiting already: ask for fewer"):
        session.run_async(x(9), timeout=0.05)
    assert session.stats().drops == 1
    more: list[Any] = []
    thread = threading.Thread(target=lambda: more.append(session.run_async(x(3))))
    thread.start()
    time.sleep(0.05)
    assert more == []
    held.go.set()
    thread.join(10)
    assert [future.result(10)["y"][0] for future in (*futures, *more)] == [0, 1, 2, 3]
    session.close()


def test_closing_cancels_what_waits_and_waits_for_what_runs(held: Held) -> None:
    session = session_of(held, in_flight=1)
    running, waiting = session.run_async(x(1)), session.run_async(x(2), timeout=100)
    assert held.begun.acquire(timeout=10)
    closer = threading.Thread(target=session.close)
    closer.start()
    wait([waiting], timeout=10)
    assert waiting.cancelled() and not running.done() and not held.closed
    with pytest.raises(BackendError, match="^the session is closed: load the bundle again$"):
        session.run_async(x(3))
    held.go.set()
    closer.join(10)
    assert held.closed and running.result(0)["y"].tolist() == [1]


def test_a_run_that_waits_when_the_session_closes_says_so(held: Held) -> None:
    session = session_of(held, in_flight=1)
    session.run_async(x(1))
    assert held.begun.acquire(timeout=10)
    said: list[BaseException] = []

    def wait_for_it() -> None:
        try:
            session.run(x(2), timeout=60)
        except BaseException as error:
            said.append(error)

    waiter = threading.Thread(target=wait_for_it)
    waiter.start()
    until(lambda: session.stats().queue_depth == 1)
    closer = threading.Thread(target=session.close)
    closer.start()
    waiter.join(10)
    held.go.set()
    closer.join(10)
    assert [(type(error), str(error)) for error in said] == [
        (BackendError, "the session is closed: load the bundle again")
    ]


class Failing:
    """A backend that fails."""

    def run(self, outputs: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
        raise BackendError("the GPU is gone")

    def close(self) -> None:
        pass


def test_a_failure_is_raised_where_the_result_is_asked_for() -> None:
    session = session_of(Failing())
    future = session.run_async(x(1))
    with pytest.raises(BackendError, match="^the GPU is gone$"):
        future.result(10)
    with pytest.raises(BackendError, match="^the GPU is gone$"):
        session.run(x(1), timeout=10)
    assert session.stats().errors == 2 and session.stats().drops == 0
    session.close()


def test_arrays_are_let_go_once_done(tmp_path: Path) -> None:
    import gc
    import weakref

    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1) as session:
        array = np.zeros((1, 3), np.float32)
        gone = weakref.ref(array)
        session.run_async({"x": array}, timeout=60).result(10)
        session.run({"x": array}, timeout=60)
        del array
        gc.collect()
        until(lambda: gone() is None)


def test_tasks_with_a_long_time_are_not_kept(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1, in_flight=1) as session:
        for _ in range(200):
            session.run_async({"x": np.zeros((1, 3), np.float32)}, timeout=1000).result(10)
        workers = session._core.workers
        assert workers is not None and workers._clock is not None and len(workers._clock._due) <= 2


def test_a_session_that_is_dropped_ends_its_threads(tmp_path: Path) -> None:
    import gc

    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    before = set(threading.enumerate())
    session = load(tmp_path / "b", threads=1)
    session.run_async({"x": np.zeros((1, 3), np.float32)}, timeout=60).result(10)
    assert set(threading.enumerate()) - before
    del session
    gc.collect()
    until(lambda: not set(threading.enumerate()) - before)
