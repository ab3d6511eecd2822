"""The real thing, where a GPU is: engines built here, run through CUDA, and compared with ONNX Runtime on the CPU.

TensorRT-RTX builds them where it knows the GPU, else the full TensorRT, whichever is installed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from edgebig.build.flavour import Flavour, find_flavours
from edgebig.build.profiles import Profile
from edgebig.build.tensorrt import build_engine
from edgebig.errors import EdgebigError, InputError
from edgebig.runtime.gpu.arrays import DeviceArray
from edgebig.runtime.gpu.cuda import Cuda, import_cuda
from edgebig.runtime.tensorrt import TensorRtBackend

pytestmark = pytest.mark.gpu

Array = np.ndarray[Any, Any]
Profiles = Sequence[Mapping[str, Profile]]
ONE = [{"x": Profile((1, 8), (4, 8), (32, 8))}]


@pytest.fixture(scope="module")
def capability() -> str:
    """The GPU's compute capability; skips, with the reason, where none can be used."""
    try:
        return Cuda(import_cuda()).capability()
    except EdgebigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def flavour(capability: str) -> Flavour:
    found = [f for f in reversed(find_flavours()) if not f.builds_ahead or capability in f.capabilities]
    if not found:
        pytest.skip(f"no TensorRT here builds for compute capability {capability}")
    return found[0]


class Built:
    """A model and its engine."""

    def __init__(self, model: onnx.ModelProto, profiles: Profiles, flavour: Flavour, capability: str, at: Path) -> None:
        self.graph, self.engine, self.flavour = at / "model.onnx", at / "model.engine", flavour
        onnx.save(model, self.graph)
        capabilities = (capability,) if flavour.builds_ahead else ()
        built = build_engine(self.graph, flavour, profiles=profiles, capabilities=capabilities)
        self.engine.write_bytes(built.engine)

    def open(self, **options: Any) -> TensorRtBackend:
        return TensorRtBackend(self.engine, flavour=self.flavour.name, **options)

    def expected(self, **feeds: Array) -> list[Array]:
        session = onnxruntime.InferenceSession(str(self.graph), providers=["CPUExecutionProvider"])
        found: list[Array] = session.run(None, feeds)
        return found


@pytest.fixture(scope="module")
def mlp(flavour: Flavour, capability: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tiny.mlp(), ONE, flavour, capability, tmp_path_factory.mktemp("mlp"))


@pytest.fixture(scope="module")
def positive(capability: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The places of the positive elements of a vector, whose number hangs on the values."""
    flavour = next((f for f in find_flavours() if not f.is_rtx), None)
    if flavour is None:  # 1.7.1 takes no NonZero, Compress or Unique, and has no kernel for NonMaxSuppression
        pytest.skip("TensorRT-RTX builds nothing whose output's size hangs on values, and TensorRT is not installed")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [1, "m"])
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    nodes = [helper.make_node("Greater", ["x", "zero"], ["is"]), helper.make_node("NonZero", ["is"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [zero])
    opset = helper.make_opsetid("", tiny.OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=tiny.IR_VERSION)
    profiles = [{"x": Profile((1,), (16,), (64,))}]
    return Built(model, profiles, flavour, capability, tmp_path_factory.mktemp("positive"))


def batch(size: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(size, 8)).astype(np.float32)


def close(found: Array, expected: Array) -> None:
    """Within what TensorFloat-32, with 10 bits of mantissa, may cost two layers."""
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_an_engine_computes_what_onnxruntime_does(mlp: Built, cuda_graphs: bool) -> None:
    backend = mlp.open(cuda_graphs=cuda_graphs)
    for size in (4, 4, 4, 4, 1, 32, 4, 1, 1, 7):
        x = batch(size, seed=size)
        close(backend.run(["y"], {"x": x})[0], mlp.expected(x=x)[0])
    lane = backend._pool.take()
    assert (len(lane._graphs) > 0) is cuda_graphs  # a capture that failed would be silent
    backend._pool.give(lane)
    with pytest.raises(InputError, match="has the shape 33x8"):
        backend.run(["y"], {"x": batch(33)})
    backend.close()


def test_results_are_not_written_again(mlp: Built) -> None:
    backend = mlp.open()
    kept = [(backend.run(["y"], {"x": batch(4, seed)})[0], batch(4, seed)) for seed in range(6)]
    for y, x in kept:
        close(y, mlp.expected(x=x)[0])
    backend.close()


def test_several_threads(mlp: Built) -> None:
    backend = mlp.open(contexts=3)
    expected = {size: mlp.expected(x=batch(size, size))[0] for size in range(1, 9)}
    wrong: list[object] = []

    def work(size: int) -> None:
        try:
            for _ in range(50):
                if not np.allclose(backend.run(["y"], {"x": batch(size, size)})[0], expected[size], 1e-2, 1e-2):
                    wrong.append(size)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(size,)) for size in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backend.close()
    assert wrong == []


def test_profiles_are_switched(flavour: Flavour, capability: str, tmp_path: Path) -> None:
    profiles = [{"x": Profile((1, 8), (1, 8), (1, 8))}, {"x": Profile((2, 8), (16, 8), (32, 8))}]
    built = Built(tiny.mlp(), profiles, flavour, capability, tmp_path)
    backend = built.open()
    for size in (1, 16, 1, 32, 32, 32, 1, 1, 2):
        close(backend.run(["y"], {"x": batch(size, size)})[0], built.expected(x=batch(size, size))[0])
    backend.close()


def test_outputs_of_a_size_that_the_values_decide(positive: Built) -> None:
    backend = positive.open()
    for seed in range(6):
        x = np.random.default_rng(seed).normal(size=10 + seed).astype(np.float32)
        np.testing.assert_array_equal(backend.run(["y"], {"x": x})[0], positive.expected(x=x)[0])
        (kept,) = backend.run_on_device(["y"], {"x": x})
        np.testing.assert_array_equal(kept.numpy(), positive.expected(x=x)[0])
    backend.close()


def test_outputs_stay_on_the_gpu_and_go_in_again(mlp: Built) -> None:
    backend = mlp.open()
    (first,) = backend.run_on_device(["y"], {"x": batch(4)})
    (second,) = backend.run_on_device(["y"], {"x": batch(4, 1)})
    assert isinstance(first, DeviceArray)
    close(first.numpy(), mlp.expected(x=batch(4))[0])
    backend.close()
    close(second.numpy(), mlp.expected(x=batch(4, 1))[0])


def test_torch_gives_and_takes_memory_of_the_gpu(mlp: Built) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    backend = mlp.open()
    x = torch.from_numpy(batch(4)).cuda()
    for _ in range(4):
        x = x * 1.0  # queued on torch's stream, which has to be waited for
        close(backend.run(["y"], {"x": x})[0], mlp.expected(x=batch(4))[0])
    (y,) = backend.run_on_device(["y"], {"x": x})
    tensor = torch.from_dlpack(y)
    assert tensor.is_cuda and tensor.data_ptr() == y.memory.address
    close((tensor * 2).cpu().numpy(), mlp.expected(x=batch(4))[0] * 2)
    for _ in range(20):  # tensors that are dropped while torch's work on them is queued
        (y,) = backend.run_on_device(["y"], {"x": x})
        total = torch.from_dlpack(y).sum()
        del y
    close(total.cpu().numpy(), mlp.expected(x=batch(4))[0].sum())
    with pytest.raises(InputError, match="not contiguous"):
        backend.run(["y"], {"x": torch.ones(8, 4, device="cuda").T})
    backend.close()


def test_bound_arrays(mlp: Built) -> None:
    backend = mlp.open()
    x, y = backend.buffer((4, 8), "float32"), backend.buffer((4, 4), "float32")
    bound = backend.bind({"x": x}, {"y": y})
    for seed in range(4):
        x[...] = batch(4, seed)
        bound.run()
        close(y, mlp.expected(x=batch(4, seed))[0])
    bound.close()
    backend.close()


def test_layers_tell_their_times(mlp: Built) -> None:
    backend = mlp.open()
    times = backend.profile({"x": batch(4)})
    assert times and all(name and ms >= 0 for name, ms in times)
    assert sum(ms for _, ms in times) > 0
    backend.close()


def test_memory_does_not_grow(mlp: Built) -> None:
    runtime = import_cuda()
    backend = mlp.open()

    def used() -> int:
        error, free, total = runtime.cudaMemGetInfo()
        assert int(error) == 0
        return int(total) - int(free)

    def runs() -> None:
        for turn in range(300):
            backend.run(["y"], {"x": batch(1 + turn % 7)})
            backend.run_on_device(["y"], {"x": batch(1 + turn % 3)})

    runs()
    before, held = used(), backend.device_memory()
    runs()
    assert backend.device_memory() == held
    assert used() - before <= 2 << 20  # the driver's own granularity
    backend.close()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_onnxruntimes_providers(mlp: Built, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebig.runtime.onnxruntime_gpu import OnnxRuntimeGpu, provider_problem

    problem = provider_problem(onnxruntime, provider)  # type: ignore[arg-type]
    if problem:
        pytest.skip(problem)
    monkeypatch.setenv("EDGEBIG_CACHE", str(tmp_path))
    profiles = {"x": {"min": [1, 8], "opt": [4, 8], "max": [32, 8]}}
    backend = OnnxRuntimeGpu(
        mlp.graph,
        provider,  # type: ignore[arg-type]
        optimize=True,
        profiles=profiles,
        hashes=["mlp"],
        cuda_graph=False,
    )
    for size in (4, 4, 1, 32):
        close(backend.run(["y"], {"x": batch(size)})[0], mlp.expected(x=batch(size))[0])
    (y,) = backend.run_on_device(["y"], {"x": batch(4)})
    close(y.numpy(), mlp.expected(x=batch(4))[0])
    backend.close()
    if provider == "tensorrt":
        assert any(name.endswith(".engine") for _, _, names in os.walk(tmp_path) for name in names)


def test_onnxruntime_replays_a_cuda_graph(tmp_path: Path) -> None:
    from edgebig.runtime.onnxruntime_gpu import OnnxRuntimeGpu, provider_problem

    problem = provider_problem(onnxruntime, "cuda")
    if problem:
        pytest.skip(problem)
    model = tiny.mlp()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "static.onnx")
    backend = OnnxRuntimeGpu(tmp_path / "static.onnx", "cuda", optimize=True)
    assert backend.cuda_graph
    session = onnxruntime.InferenceSession(str(tmp_path / "static.onnx"), providers=["CPUExecutionProvider"])
    for seed in range(4):
        x = batch(4, seed)
        np.testing.assert_allclose(backend.run(["y"], {"x": x})[0], session.run(None, {"x": x})[0], 1e-4, 1e-5)
    backend.close()
