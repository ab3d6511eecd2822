"""The TensorRT backend on a fake device: values, order of calls, and that everything is freed on every way out."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda, cudaError_t
from fake_tensorrt import FakeTensorRt

from edgebig.errors import BackendError, InputError
from edgebig.runtime.tensorrt import TensorRtBackend


def batch(size: int, start: float = 0.0) -> np.ndarray[Any, Any]:
    return np.arange(start, start + size * 3, dtype=np.float32).reshape(size, 3)


def run(backend: TensorRtBackend, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return backend.run(["y"], {"x": x})[0]


def test_shapes_that_recur_are_replayed_with_the_new_values(cuda: FakeCuda, engine: Path) -> None:
    trt = FakeTensorRt(cuda)
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    assert [str(spec) for spec in (*backend.inputs, *backend.outputs)] == ["x: float32 ?x3", "y: float32 ?x3"]
    assert trt.host_code == [False]
    results = []
    for start in range(5):
        x = batch(2, start)
        results.append((run(backend, x), x + 1))
    for found, expected in results:  # each in memory of its own
        np.testing.assert_array_equal(found, expected)
    # twice as it is, once to warm the second context up, once recorded; then replayed
    assert trt.executions == 4
    assert cuda.calls.count("cudaGraphLaunch") == 3
    assert trt.contexts == 2
    transposed = np.asfortranarray(batch(3))
    np.testing.assert_array_equal(run(backend, transposed), transposed + 1)
    assert cuda.calls.count("cudaGraphLaunch") == 3
    np.testing.assert_array_equal(run(backend, batch(2, 9.0)), batch(2, 9.0) + 1)
    assert cuda.calls.count("cudaGraphLaunch") == 4
    backend.close()
    backend.close()
    assert trt.contexts == 0
    with pytest.raises(BackendError, match="the session is closed"):
        run(backend, batch(2))


def test_the_short_way_takes_nothing_but_what_was_recorded(cuda: FakeCuda, engine: Path) -> None:
    trt = FakeTensorRt(cuda)
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    for start in range(4):
        run(backend, batch(2, start))
    for wrong in (batch(2).astype(np.float64), batch(2)[:, :2], batch(2)[0]):
        with pytest.raises(InputError, match="the engine takes x: float32"):
            run(backend, wrong)
    with pytest.raises(InputError, match="'x' is missing"):
        backend.run(["y"], {})
    strided = np.repeat(batch(2), 2, axis=1)[:, ::2]
    launched = cuda.calls.count("cudaGraphLaunch")
    np.testing.assert_array_equal(run(backend, strided), batch(2) + 1)
    assert cuda.calls.count("cudaGraphLaunch") == launched + 1
    assert backend.run([], {"x": batch(2)}) == []
    for size in (3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6):  # further graphs; the one of two rows goes
        np.testing.assert_array_equal(run(backend, batch(size)), batch(size) + 1)
    np.testing.assert_array_equal(run(backend, batch(2, 5.0)), batch(2, 5.0) + 1)
    backend.close()


def test_a_run_copies_in_runs_copies_out_and_waits_in_this_order(cuda: FakeCuda, engine: Path) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda), cuda=cuda, cuda_graphs=False)
    run(backend, batch(1))
    cuda.calls.clear()
    for _ in range(3):
        run(backend, batch(1))
    assert cuda.calls == ["cudaMemcpyAsync", "cudaMemcpyAsync", "cudaStreamSynchronize"] * 3
    backend.close()


def test_only_the_last_few_shapes_keep_a_graph(cuda: FakeCuda, engine: Path) -> None:
    trt = FakeTensorRt(cuda)
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    for size in range(1, 8):
        for _ in range(2):
            np.testing.assert_array_equal(run(backend, batch(size)), batch(size) + 1)
    assert trt.contexts == 1 + 4
    backend.close()


@pytest.mark.parametrize("why", ["capture refused", "no second context", "no instance", "no memory"])
def test_without_a_graph_runs_go_on_as_before(cuda: FakeCuda, engine: Path, why: str) -> None:
    trt = FakeTensorRt(cuda)
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    run(backend, batch(2))
    trt.refuses_capture = why == "capture refused"
    trt.most_contexts = 1 if why == "no second context" else 100
    if why == "no instance":
        cuda.fail["cudaGraphInstantiate"] = cudaError_t.cudaErrorMemoryAllocation
    if why == "no memory":
        cuda.fail["cudaMalloc"] = cudaError_t.cudaErrorMemoryAllocation
    for start in range(4):
        np.testing.assert_array_equal(run(backend, batch(2, start)), batch(2, start) + 1)
    assert trt.contexts == 1
    assert cuda.calls.count("cudaGraphLaunch") == 0
    assert cuda.calls.count("cudaStreamBeginCapture") <= 1
    backend.close()


def test_outputs_of_a_size_that_the_values_decide(cuda: FakeCuda, engine: Path) -> None:
    trt = FakeTensorRt(cuda, positive=True)
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    for x in (batch(1, -2.0), batch(8, -5.0), batch(1, -9.0), batch(8, -5.0), batch(8, -5.0)):
        y = x.ravel() + 1
        found = run(backend, x)
        np.testing.assert_array_equal(found, y[y > 0])
    assert "cudaStreamBeginCapture" not in cuda.calls
    backend.close()


def test_an_output_that_finds_no_memory_is_said_so(cuda: FakeCuda, engine: Path) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda, positive=True), cuda=cuda, cuda_graphs=False)
    run(backend, batch(1))
    cuda.calls.clear()
    x = batch(8, 1.0) * 1000
    backend.run([], {"x": x})
    backend.close()
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda, positive=True), cuda=cuda)
    trt_allocates = cuda.cudaMalloc
    sizes: list[int] = []

    def only_the_input(size: int) -> tuple[Any, ...]:
        sizes.append(size)
        if len(sizes) > 1:
            cuda.fail["cudaMalloc"] = cudaError_t.cudaErrorMemoryAllocation
        return trt_allocates(size)

    cuda.cudaMalloc = only_the_input  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="cudaMalloc failed with cudaErrorMemoryAllocation .*smaller batch"):
        run(backend, x)
    assert len(sizes) == 2
    backend.close()


def test_the_profile_follows_the_shapes_and_others_are_refused(cuda: FakeCuda, engine: Path) -> None:
    trt = FakeTensorRt(cuda)
    trt.batches = [(1, 1, 1), (2, 8, 16)]
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda, cuda_graphs=False)
    for size in (1, 8, 9, 1):
        np.testing.assert_array_equal(run(backend, batch(size)), batch(size) + 1)
    assert trt.profiles_set == [1, 0]
    with pytest.raises(InputError, match="'x' has the shape 17x3, the engine takes 1x3 or 2x3 to 16x3"):
        run(backend, batch(17))
    with pytest.raises(InputError, match="the engine takes x: float32 .x3, found float64 1x3"):
        run(backend, batch(1).astype(np.float64))
    with pytest.raises(InputError, match="the engine takes x: float32 .x3, found float32 1x4"):
        run(backend, np.zeros((1, 4), np.float32))
    with pytest.raises(InputError, match="'x' is missing"):
        backend.run(["y"], {})
    assert trt.contexts == 1
    np.testing.assert_array_equal(run(backend, batch(4)), batch(4) + 1)
    backend.close()


def test_a_failed_run_names_tensorrts_reason_and_the_next_one_works(cuda: FakeCuda, engine: Path) -> None:
    trt = FakeTensorRt(cuda)
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    trt.refuses = True
    with pytest.raises(BackendError, match=r"failed while running model\.engine: the engine is tired$"):
        run(backend, batch(2))
    trt.refuses = False
    np.testing.assert_array_equal(run(backend, batch(2)), batch(2) + 1)
    backend.close()


def test_a_lost_gpu_is_one_error_from_then_on(cuda: FakeCuda, engine: Path) -> None:
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda), cuda=cuda)
    for _ in range(3):
        run(backend, batch(2))
    cuda.fail["cudaStreamSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(BackendError, match="cudaErrorIllegalAddress .*the GPU is lost to this process") as first:
        run(backend, batch(2))
    cuda.calls.clear()
    with pytest.raises(BackendError) as second:
        run(backend, batch(2))
    assert str(second.value) == str(first.value)
    assert cuda.calls == []
    backend.close()


@pytest.mark.parametrize("call", ["cudaStreamCreateWithFlags", "cudaHostAlloc", "cudaMalloc", "cudaMemcpyAsync"])
def test_every_error_on_the_way_frees_what_was_made(cuda: FakeCuda, engine: Path, call: str) -> None:
    trt = FakeTensorRt(cuda)
    if call == "cudaStreamCreateWithFlags":
        cuda.fail[call] = cudaError_t.cudaErrorMemoryAllocation
        with pytest.raises(BackendError, match=f"{call} failed"):
            TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
        return
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    cuda.fail[call] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(BackendError, match=f"{call} failed"):
        run(backend, batch(2))
    assert trt.contexts == 0 and cuda.live == {}
    del cuda.fail[call]
    np.testing.assert_array_equal(run(backend, batch(2)), batch(2) + 1)
    backend.close()


def test_no_context_no_gpu_and_a_foreign_engine_are_told_when_loading(cuda: FakeCuda, engine: Path) -> None:
    trt = FakeTensorRt(cuda)
    trt.most_contexts = 0
    with pytest.raises(BackendError, match=r"no context of model\.engine: out of memory"):
        TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    assert cuda.live == {}
    trt = FakeTensorRt(cuda)
    trt.dtypes["y"] = "BF16"
    with pytest.raises(BackendError, match="'y' of bfloat16, which NumPy lacks"):
        TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    engine.write_bytes(b"other")
    with pytest.raises(BackendError, match=r"10\.3\.0 does not load model\.engine: Version tag .* 'edgebig finish'"):
        TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    with pytest.raises(BackendError, match="there is no GPU 1: CUDA finds 1"):
        TensorRtBackend(engine, tensorrt=trt, cuda=cuda, device=1)
    cuda.fail["cudaGetDeviceCount"] = cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(BackendError, match=r"finds no GPU \(cudaErrorInsufficientDriver\)"):
        TensorRtBackend(engine, tensorrt=trt, cuda=cuda)


@pytest.mark.parametrize(
    ("diagnostics", "said"),
    [
        (4 | 2, r"match \(unsupported cc, old cuda driver\): update NVIDIA's driver$"),
        (1, r"match \(version mismatch\): build it here with 'edgebig finish'$"),
        (0, r"match: build it here with 'edgebig finish'$"),
    ],
)
def test_tensorrt_rtx_tells_from_the_header_why_an_engine_does_not_load(
    cuda: FakeCuda, engine: Path, diagnostics: int, said: str
) -> None:
    trt = FakeTensorRt(cuda)
    trt.diagnostics = diagnostics
    engine.write_bytes(b"other")
    with pytest.raises(BackendError, match=said):
        TensorRtBackend(engine, tensorrt=trt, cuda=cuda, flavour="tensorrt-rtx")


def test_an_engine_of_an_older_version_runs_in_the_lean_runtime_that_is_named(
    cuda: FakeCuda, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = FakeTensorRt(cuda)
    trt.lean = b"ftrt" + bytes(20) + bytes([10, 2, 0, 19])
    engine.write_bytes(trt.lean)
    monkeypatch.delenv("EDGEBIG_LEAN_RUNTIME", raising=False)
    with pytest.raises(BackendError, match=r"does not load model\.engine: Version tag"):
        TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    monkeypatch.setenv("EDGEBIG_LEAN_RUNTIME", "/opt/other.so")
    with pytest.raises(
        BackendError, match=r"lean runtime /opt/other\.so: Unable .* name that of TensorRT 10\.2\.0\.19"
    ):
        TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    monkeypatch.setenv("EDGEBIG_LEAN_RUNTIME", "/opt/10.2/libnvinfer_lean.so.10")
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda)
    np.testing.assert_array_equal(run(backend, batch(2)), batch(2) + 1)
    backend.close()
    trt.engine = b"ftrt" + bytes(20) + bytes([10, 3, 0, 30])  # its own version: no other runtime is asked
    engine.write_bytes(trt.engine)
    TensorRtBackend(engine, tensorrt=trt, cuda=cuda).close()
    assert trt.host_code == [False] * 3


def test_the_callers_device_is_given_back(engine: Path) -> None:
    cuda = FakeCuda(devices=2)
    backend = TensorRtBackend(engine, tensorrt=FakeTensorRt(cuda), cuda=cuda, device=1)
    run(backend, batch(2))
    backend.close()
    assert cuda.current == 0
    assert cuda.calls.count("cudaSetDevice") == 6


def test_threads_have_contexts_of_their_own_and_close_waits_for_none(cuda: FakeCuda, engine: Path) -> None:
    trt = FakeTensorRt(cuda)
    backend = TensorRtBackend(engine, tensorrt=trt, cuda=cuda, contexts=2)
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                x = batch(1 + number, turn)
                if not np.array_equal(run(backend, x), x + 1):
                    wrong.append((number, turn))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    backend.close()
    assert trt.contexts == 0
