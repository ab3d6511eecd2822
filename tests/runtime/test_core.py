"""What a session survives: forks, signals, threads, engines that fail, arrays that do not fit."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runnets
import tiny
from fake_cuda import FakeCuda, cudaError_t

from edgebig.bundle import Bundle
from edgebig.errors import BackendError, InputError
from edgebig.runtime import Session, load
from edgebig.runtime.core import Loaded
from edgebig.spec import TensorSpec

ROOT = Path(__file__).resolve().parents[2]
X = {"x": np.zeros((1, 3), np.float32)}

_FORK = """
import json, os, sys
import numpy as np
import edgebig
from edgebig.runtime import share

path, read, write = sys.argv[1], *os.pipe()
device = share()
session = edgebig.load(path, threads=2)
shared = edgebig.load(path, threads=2, device=device)
x = {"x": np.ones((256, 256), np.float32)}
binding = session.bind()
binding.inputs["x"][...] = 2
for run in (lambda: session.run(x), lambda: session.run_async(x).result(), binding.run, lambda: shared.run(x)):
    run()
child = os.fork()
if child == 0:
    said = []
    for run in (lambda: session.run(x), lambda: session.run_async(x), binding.run, session.bind, lambda: shared.run(x)):
        try:
            run()
            said.append("ran")
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    for each in (session, shared):
        each.reload(path)
    answers = [session.run(x), session.run_async(x).result(20), binding.run(), shared.run(x)]
    with edgebig.load(path, threads=2) as fresh:
        answers.append(fresh.run(x))
    os.write(write, json.dumps([said, [float(a["y"][0, 0]) for a in answers]]).encode())
    sys.exit(3)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps([status, json.loads(os.read(read, 100000)), float(session.run(x)["y"][0, 0])]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_is_told_and_may_reload(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": runnets.slow(nodes=20)})
    program = [sys.executable, "-c", _FORK, str(tmp_path / "b")]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    status, (said, answers), parents = json.loads(done.stdout)
    assert status == 3
    assert (
        said
        == [
            "BackendError: the session was opened before this process was forked, and an engine's threads stay behind: "
            "load the bundle after the fork, or call session.reload(bundle) in the new process"
        ]
        * 5
    )
    assert answers == [1, 1, 2, 1, 1] and parents == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers here")
def test_a_signal_handler_may_run_the_session_that_it_interrupts(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1) as session:
        found: list[float] = []
        feeds = {"x": np.full((2, 3), 7, np.float32)}

        def handler(*_: Any) -> None:
            found.append(float(session.run(feeds)["y"][1, 2]))
            try:
                session.run({"x": np.zeros(1)})
            except InputError:
                found.append(8)

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        try:
            while len(found) < 60:
                assert session.run(X)["y"].tolist() == [[1, 1, 1]]
                session.stats()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert set(found) == {8} and session.stats().errors == len(found) // 2


def test_read_only_and_non_contiguous_arrays_are_fine(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1) as session:
        values = np.arange(12, dtype=np.float32).reshape(3, 4)
        values.flags.writeable = False
        assert session.run({"x": values.T})["y"].tolist() == (values.T + 1).tolist()
        assert session.run({"x": values[:, ::-2].T})["y"].tolist() == (values[:, ::-2].T + 1).tolist()
        swapped = np.ones((1, 3), ">f4")
        with pytest.raises(InputError, match="input 'x' must be float32 batchx3, found >f4 1x3: convert it with"):
            session.run({"x": swapped})
        assert session.run(X)["y"].tolist() == [[1, 1, 1]]


def test_values_that_are_not_finite_are_refused_where_asked(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    bad = {"x": np.array([[0, 1, 2], [3, np.nan, -np.inf]], np.float32)}
    with load(tmp_path / "b", threads=1) as session:
        assert np.isnan(session.run(bad)["y"][1, 1])
    with load(tmp_path / "b", threads=1, check_finite=True) as session:
        for _ in range(2):
            assert session.run({"x": np.zeros((2, 3), np.float32)})["y"].tolist() == [[1, 1, 1]] * 2
            with pytest.raises(InputError) as caught:
                session.run(bad)
        assert str(caught.value) == (
            "input 'x' holds 2 values that are not finite, the first at [1, 1]: mend what makes it, "
            "or load without check_finite"
        )
        binding = session.bind({"batch": 2})
        assert binding.run()["y"].tolist() == [[1, 1, 1]] * 2
        binding.inputs["x"][...] = bad["x"]
        with pytest.raises(InputError, match="input 'x' holds 2 values that are not finite"):
            binding.run()
        assert (session.stats().calls, session.stats().errors) == (3, 3)


def test_statistics_of_many_threads_are_exact(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1) as session:

        def work() -> None:
            for turn in range(300):
                session.run(X)
                if turn % 3 == 0:
                    session.stats()
                with pytest.raises(InputError):
                    session.run({})

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = session.stats()
        assert (stats.calls, stats.errors, stats.drops) == (1800, 1800, 0)
        assert stats.p50 is not None and stats.p95 is not None and stats.p99 is not None
        assert 0 < stats.p50 <= stats.p95 <= stats.p99 < 10
        session.warm_up({"batch": 1}, runs=5)
        assert session.stats().calls == 1800


def test_nothing_grows_over_many_calls(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1) as session:
        binding = session.bind({"batch": 1})
        shapes = [{"x": np.zeros((1 + number % 200, 3), np.float32)} for number in range(400)]

        def calls(count: int) -> None:
            for number in range(count):
                session.run(X)
                binding.run()
                session.run(shapes[number % 400])
                if number % 100 == 0:
                    session.run(X, timeout=60)

        tracemalloc.start()
        calls(1000)
        gc.collect()
        resident = _resident()
        first = tracemalloc.get_traced_memory()[0]
        calls(7000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - first
        tracemalloc.stop()
        assert grown < 20_000
        assert _resident() - resident < 2_000_000


def _resident() -> int:
    """Bytes of resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_gpu_that_disappears_is_one_error_and_the_process_goes_on(cuda: FakeCuda, gpu_bundle: Bundle) -> None:
    session = load(gpu_bundle.path)
    assert session.backend == "tensorrt"
    binding = session.bind({"batch": 1})
    assert session.run(X)["y"].tolist() == binding.run()["y"].tolist() == [[1, 1, 1]]
    cuda.fail["cudaStreamSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    for run in (lambda: session.run(X), lambda: session.run_async(X).result(10), binding.run):
        with pytest.raises(BackendError) as caught:
            run()
        assert "\n" not in str(caught.value)
    assert session.stats().errors == 3
    cuda.fail.clear()
    with load(gpu_bundle.path, prefer="onnxruntime-cpu") as other:
        assert other.backend == "onnxruntime-cpu" and other.run(X)["y"].tolist() == [[1, 1, 1]]
    session.close()


def test_every_call_is_traced_where_asked() -> None:
    spans: list[Any] = []

    @contextmanager
    def trace(name: str, attributes: Any) -> Any:
        spans.append((name, dict(attributes)))
        try:
            yield
        except BackendError:
            spans.append("failed")
            raise

    class Adds:
        def run(self, outputs: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
            if feeds["x"][0] < 0:
                raise BackendError("negative")
            return [feeds["x"] + 1]

        def close(self) -> None:
            pass

    specs = [TensorSpec("x", "float32", (1,))], [TensorSpec("y", "float32", (1,))]
    with Session(Loaded(Adds(), "adds", *specs), trace=trace) as session:
        one = {"x": np.ones(1, np.float32)}
        assert session.run(one)["y"].tolist() == [2]
        assert session.bind().run()["y"].tolist() == [1]
        with pytest.raises(BackendError):
            session.run({"x": -one["x"]})
        session.warm_up(runs=1)
    run = ("edgebig.run", {"edgebig.backend": "adds"})
    assert spans == [run, run, run, "failed", ("edgebig.warm_up", {"edgebig.backend": "adds"})]
