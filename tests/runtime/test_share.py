"""Several models on one device: memory and turns."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from edgebig.errors import BackendError, DeadlineError, UsageError
from edgebig.runtime import Session, available_backends, load, share
from edgebig.runtime.choose import Candidate
from edgebig.runtime.core import Loaded
from edgebig.runtime.share import Place, SharedDevice, estimated_memory, free_memory
from edgebig.spec import TensorSpec

X = {"x": np.zeros((1, 3), np.float32)}


def test_a_model_that_does_not_fit_is_refused_in_plain_words(tmp_path: Path) -> None:
    one = tiny.write_bundle(tmp_path / "one", {"model": tiny.add_one()})
    size = (one.path / "graphs/model.onnx").stat().st_size
    assert estimated_memory(one, None, available_backends(one)[0]) == size
    device = share(memory=2 * size)
    first, second = load(one, device=device), load(one, device=device)
    assert device.used == 2 * size
    each = f"{size / 1e3:.1f} kB"
    with pytest.raises(BackendError) as caught:
        load(one, device=device)
    assert str(caught.value) == (
        f"{one.path} needs {each} and 0.0 MB of the {2 * size / 1e3:.1f} kB that the models may take are left beside "
        f"{one.path} {each}, {one.path} {each}: close a session, raise memory, or compile the model in a smaller format"
    )
    assert device.used == 2 * size
    first.close()
    assert device.used == size
    third = load(one, device=device)
    second.close()
    third.close()
    assert device.used == 0


def test_weights_beside_the_graph_and_activations_count(tmp_path: Path) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.mlp()}, external=True)
    files = sum((bundle.path / name).stat().st_size for name in ("graphs/model.onnx", "graphs/model.onnx.data"))
    bundle.part().sizes["activation_bytes"] = 1000
    assert estimated_memory(bundle, None, available_backends(bundle)[0]) == files + 1000


def test_a_failed_load_and_a_reload_give_memory_back(tmp_path: Path) -> None:
    one = tiny.write_bundle(tmp_path / "one", {"model": tiny.add_one()})
    size = (one.path / "graphs/model.onnx").stat().st_size
    device = share(memory=2 * size)
    broken = tiny.add_one()
    broken.graph.node[0].op_type = "Frobnicate"
    with pytest.raises(BackendError, match="Frobnicate"):
        load(tiny.write_bundle(tmp_path / "broken", {"model": broken}), device=device)
    assert device.used == 0
    with load(one, device=device) as session:
        session.reload(one)
        assert device.used == size
        with load(one, device=device), pytest.raises(BackendError, match="close a session"):
            session.reload(one)  # the old and the new one are there together for a moment
        assert session.run(X)["y"].tolist() == [[1, 1, 1]]
    assert device.used == 0


def test_a_session_that_is_dropped_gives_memory_back(tmp_path: Path) -> None:
    one = tiny.write_bundle(tmp_path / "one", {"model": tiny.add_one()})
    device = share()
    session = load(one, device=device)
    future = session.run_async(X)
    assert device.used > 0
    del session
    assert future.result(20)["y"].tolist() == [[1, 1, 1]]
    end = time.monotonic() + 20
    while device.used and time.monotonic() < end:
        gc.collect()
        time.sleep(0.005)
    assert device.used == 0


class Measured:
    """A backend that says what it holds."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.closed = False

    def run(self, outputs: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
        return [feeds["x"]]

    def device_memory(self) -> int:
        return self.size

    def close(self) -> None:
        self.closed = True


def test_what_the_backend_says_takes_the_estimates_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    backends = [Measured(3_000_000), Measured(9_000_000)]
    left = iter(backends)
    monkeypatch.setattr("edgebig.runtime.choose._open", lambda *_: next(left))
    device = share(memory=10_000_000)
    session = load(bundle, device=device)
    assert device.used == 3_000_000 and session.stats().device_memory == 3_000_000
    with pytest.raises(BackendError, match="needs 9.0 MB and 7.0 MB of the 10.0 MB"):
        load(bundle, device=device)
    assert backends[1].closed and device.used == 3_000_000
    session.close()
    assert backends[0].closed and device.used == 0


class Cuda:
    """``cudaMemGetInfo`` alone."""

    def __init__(self, error: int, free: int) -> None:
        self._answer = error, free, 10 * free

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return self._answer


class WithoutDriver:
    """The same of cuda-python 12.8 on a machine without a driver."""

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        raise RuntimeError("Failed to dlopen libcuda.so.1")


def test_a_gpu_that_is_full_refuses_too() -> None:
    on_gpu = Candidate("tensorrt", "engines/model.engine", True, "here")
    assert free_memory(on_gpu, Cuda(0, 500)) == 500
    assert free_memory(on_gpu, Cuda(2, 500)) is None
    assert free_memory(on_gpu, WithoutDriver()) is None
    assert free_memory(Candidate("onnxruntime-cpu", "graphs/model.onnx", True, "here"), Cuda(0, 500)) is None
    with pytest.raises(BackendError, match="needs 2.0 MB and the device has 1.0 MB free: close what else uses it"):
        share().reserve("b", 2_000_000, free=1_000_000)


class Recording:
    """A backend that notes whose run it was, and may have to meet others in it."""

    def __init__(self, name: str, log: list[str], together: threading.Barrier | None = None) -> None:
        self._name, self._log, self._together = name, log, together

    def run(self, outputs: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
        if self._together is not None:
            self._together.wait(20)
        self._log.append(self._name)
        return [feeds["x"]]

    def close(self) -> None:
        pass


def placed(
    device: SharedDevice, name: str, priority: int, log: list[str], together: threading.Barrier | None = None
) -> Session:
    specs = [TensorSpec("x", "float32", (1, 3))], [TensorSpec("y", "float32", (1, 3))]
    return Session(Loaded(Recording(name, log, together), name, *specs), place=Place(device, priority))


def test_the_highest_priority_goes_first_and_equals_in_their_order() -> None:
    log: list[str] = []
    device = share()
    sessions = [placed(device, name, priority, log) for name, priority in (("a", 0), ("b", 0), ("c", 5), ("d", 9))]
    threads: list[threading.Thread] = []
    with device.turn(0, None):
        for session in sessions:
            threads.append(threading.Thread(target=session.run, args=(X,)))
            threads[-1].start()
            end = time.monotonic() + 20
            while len(device._waiting) < len(threads) and time.monotonic() < end:
                time.sleep(0.002)
        assert log == []
    for thread in threads:
        thread.join(20)
    assert log == ["d", "c", "a", "b"]


def test_as_many_run_at_a_time_as_there_are_slots() -> None:
    log: list[str] = []
    device = share(slots=3)
    together = threading.Barrier(3)
    threads = [threading.Thread(target=placed(device, "m", 0, log, together).run, args=(X,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert log == ["m"] * 6


def test_waiting_for_a_turn_has_a_deadline() -> None:
    log: list[str] = []
    device = share()
    slow, late = placed(device, "slow", 0, log), placed(device, "late", 0, log)
    with device.turn(0, None):
        with pytest.raises(DeadlineError):
            late.run(X, timeout=0.05)
        assert late.stats().drops == 1
    assert slow.run(X)["y"].tolist() == [[0, 0, 0]] and log == ["slow"]
    assert late.run(X, timeout=10)["y"].tolist() == [[0, 0, 0]]
    for session in (slow, late):
        session.close()


def test_a_wait_that_is_interrupted_leaves_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    device = share()

    def interrupted(timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    def wait_in_a_thread() -> None:
        with pytest.raises(KeyboardInterrupt), device.turn(9, None):
            pass

    with device.turn(0, None):
        monkeypatch.setattr(device._changed, "wait", interrupted)
        thread = threading.Thread(target=wait_in_a_thread)
        thread.start()
        thread.join(20)
        monkeypatch.undo()
    log: list[str] = []
    assert placed(device, "next", 0, log).run(X)["y"].tolist() == [[0, 0, 0]] and device._waiting == []


def test_a_thread_that_has_its_turn_may_run_another_model() -> None:
    log: list[str] = []
    device = share()
    with device.turn(0, None):
        assert placed(device, "inner", 0, log).run(X)["y"].tolist() == [[0, 0, 0]]


def test_bindings_take_turns_as_well(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    device = share()
    with load(tmp_path / "b", device=device, priority=3) as session:
        binding = session.bind({"batch": 1})
        threads: list[threading.Thread] = []
        with device.turn(0, None):
            threads.append(threading.Thread(target=binding.run))
            threads[0].start()
            time.sleep(0.05)
            assert session.stats().calls == 0
        threads[0].join(10)
        assert session.stats().calls == 1 and binding.outputs["y"].tolist() == [[1, 1, 1]]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="slots must be 1 or more, found 0"):
        share(slots=0)
    with pytest.raises(UsageError, match="memory must be 1 byte or more, found 0"):
        share(memory=0)
    with pytest.raises(UsageError, match="slots must be 1 or more, found 1.5"):
        share(slots=1.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="memory must be 1 byte or more, found '1G'"):
        share(memory="1G")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="device must come from edgebig.runtime.share.., found str"):
        load("nowhere", device="gpu0")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="priority must be a number, found 'high'"):
        load("nowhere", device=share(), priority="high")  # type: ignore[arg-type]
