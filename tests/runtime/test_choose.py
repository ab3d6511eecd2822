"""Which file of a bundle runs, and what is said of the others."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import onnxruntime
import pytest
import runnets
import tiny
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRt
from onnx import TensorProto, helper, numpy_helper
from ort_on_cpu import OrtOnCpu

import edgebig
from edgebig.bundle import Bundle, Engine
from edgebig.errors import BackendError, BundleError, MissingExtra, UsageError
from edgebig.graph import Graph
from edgebig.runtime import available_backends, load
from edgebig.runtime.onnxruntime_cpu import OnnxRuntimeCpu

PORTABLE = "onnxruntime-cpu with graphs/model.onnx: "
ENGINE = "onnxruntime-cpu with engines/model.0.engine: "
X = {"x": np.zeros((1, 3), np.float32)}


def test_an_engine_for_this_machine_goes_first(tmp_path: Path) -> None:
    engine = ("onnxruntime", onnxruntime.__version__, tiny.this_machine())
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()}, engines=[engine])
    with load(tmp_path / "b") as session:
        assert session.why == (
            ENGINE + f"taken: optimized for {tiny.this_machine()}",
            PORTABLE + "not taken: one before it serves",
        )
        assert session.run(X)["y"].tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("version", [onnxruntime.__version__, "1.20.0"])
def test_only_the_version_that_optimized_a_graph_takes_its_work_as_done(tmp_path: Path, version: str) -> None:
    engine = ("onnxruntime", version, tiny.this_machine())
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()}, engines=[engine])
    ahead, portable = available_backends(Bundle.open(tmp_path / "b"))
    assert (ahead.usable, ahead.done_ahead) == (True, version == onnxruntime.__version__)
    assert not portable.done_ahead
    with load(tmp_path / "b") as session:
        assert session.run(X)["y"].tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("net", [nets.conv_net, nets.residual_net, nets.attention_net])
def test_what_is_done_ahead_changes_no_bit(tmp_path: Path, net: Callable[[], Graph], precision: str) -> None:
    graph = net()
    graph.save(tmp_path / "m.onnx")
    samples = nets.samples_for(graph, 16, batch=1)
    edgebig.compile(tmp_path / "m.onnx", target="cpu", precision=precision, calibration=samples, out=tmp_path / "b")
    bundle = Bundle.open(tmp_path / "b")
    first = available_backends(bundle)[0]
    assert first.done_ahead
    path, found = bundle.file(first.file), []
    for done_ahead in (False, True):
        backend = OnnxRuntimeCpu(path, optimize=True, done_ahead=done_ahead, threads=1)
        names = [output.name for output in backend.outputs]
        found.append([array.tobytes() for sample in samples for array in backend.run(names, sample)])
    assert found[0] == found[1]


def test_engines_for_other_machines_and_later_versions_are_passed_over(tmp_path: Path) -> None:
    version = onnxruntime.__version__
    engines = [("onnxruntime", version, "riscv64"), ("onnxruntime", "99.1.0", tiny.this_machine())]
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()}, engines=engines)
    with load(tmp_path / "b") as session:
        assert session.why == (
            ENGINE + f"not taken: it is for riscv64, this machine is {tiny.this_machine()}",
            "onnxruntime-cpu with engines/model.1.engine: not taken: it was made with ONNX Runtime 99.1.0, "
            f"this machine has the older {version}",
            PORTABLE + "taken: the portable graph",
        )


def test_an_engine_that_does_not_open_gives_way_but_a_damaged_one_does_not(tmp_path: Path) -> None:
    engine = ("onnxruntime", onnxruntime.__version__, tiny.this_machine())
    odd = tiny.add_one()
    odd.graph.node[0].op_type = "Frobnicate"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.write_bundle(tmp_path / "b", {"model": odd}, engines=[engine])
        with pytest.raises(BackendError) as caught:
            load(tmp_path / "b")
    message = str(caught.value)
    assert f"{tmp_path / 'b'}: nothing on this machine runs it: {ENGINE}not taken: ONNX Runtime" in message
    assert "Frobnicate" in message and PORTABLE + "not taken: ONNX Runtime" in message
    good = tiny.write_bundle(tmp_path / "good", {"model": tiny.add_one()}, engines=[engine])
    (good.path / "engines/model.0.engine").write_bytes(b"\0")
    with pytest.raises(BundleError, match=r"engines/model\.0\.engine is not the file of the manifest"):
        load(good.path)


def test_large_graphs_are_checked_while_they_load(tmp_path: Path) -> None:
    model = runnets.slow(nodes=1, size=600)
    bundle = tiny.write_bundle(tmp_path / "b", {"model": model})
    x = np.random.default_rng(0).normal(size=(600, 600)).astype(np.float32)
    with load(bundle.path, threads=1) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], x)
    graph = bundle.path / "graphs/model.onnx"
    whole = graph.read_bytes()
    assert len(whole) > 1 << 20
    for content in (whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], whole[:2000], b"no graph" * 200_000):
        graph.write_bytes(content)
        with pytest.raises(BundleError, match=r"graphs/model\.onnx is not the file of the manifest"):
            load(bundle.path)
    graph.unlink()
    with pytest.raises(BundleError, match=r"graphs/model\.onnx: No such file"):
        load(bundle.path)


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without cuda-python."""
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)


def test_an_engine_for_the_gpu_is_taken_where_one_is(trt: FakeTensorRt, cuda: FakeCuda, gpu_bundle: Bundle) -> None:
    with load(gpu_bundle.path) as session:
        assert session.backend == "tensorrt"
        assert session.why[0].endswith("taken: built with 10.3.0, this machine has 10.3.0")
        assert session.run(X)["y"].tolist() == [[1, 1, 1]]
    assert cuda.live == {} and cuda.problems == []
    trt.engine = b"one of another version"
    expected = r"runs on the CPU here: TensorRT 10\.3\.0 does not load model\.0\.engine: .*'edgebig finish'"
    with pytest.warns(RuntimeWarning, match=expected):
        session = load(gpu_bundle.path)
    assert session.backend == "onnxruntime-cpu"
    assert "10.3.0 does not load model.0.engine: Version tag does not match: build it here" in session.why[0]
    session.close()
    (gpu_bundle.path / "engines/model.0.engine").write_bytes(b"engine")
    with pytest.raises(BundleError, match=r"model\.0\.engine is not the file of the manifest"):
        load(gpu_bundle.path)


def test_the_best_candidate_goes_first_and_each_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr("edgebig.runtime.gpu.cuda.import_cuda", lambda: cuda)
    monkeypatch.setattr("edgebig.runtime.gpu.engine.import_tensorrt", lambda flavour: FakeTensorRt(cuda))
    engines = [("tensorrt-rtx", "10.3.0", "8.6"), ("tensorrt", "10.3.0", "8.7"), ("tensorrt", "10.3.0", "8.9")]
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()}, target=tiny.L4_TARGET, engines=engines)
    candidates = available_backends(bundle)
    assert [(c.backend, c.file.rpartition("/")[2], c.usable) for c in candidates] == [
        ("tensorrt", "model.1.engine", False),
        ("tensorrt", "model.2.engine", True),
        ("tensorrt-rtx", "model.0.engine", False),
        ("onnxruntime-tensorrt", "model.onnx", False),
        ("onnxruntime-cuda", "model.onnx", False),
        ("onnxruntime-cpu", "model.onnx", True),
    ]
    finish = f"run 'edgebig finish {tmp_path / 'b'}'"
    assert candidates[0].reason == (f"built for TensorRT 10.3 on sm_87; this machine has 10.3 on sm_89: {finish}")
    assert candidates[2].reason.endswith(f"on sm_86; this machine has 10.3 on sm_89: {finish}")
    assert "here has no TensorRT provider" in candidates[3].reason


def test_onnxruntime_on_the_gpu_serves_where_no_engine_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBIG_CACHE", str(tmp_path / "cache"))
    ort = OrtOnCpu(tmp_path)
    for module in ("choose", "onnxruntime_gpu", "onnxruntime_cpu"):
        monkeypatch.setattr(f"edgebig.runtime.{module}.import_onnxruntime", lambda: ort)
    monkeypatch.setattr("edgebig.runtime.gpu.cuda.import_cuda", FakeCuda)
    monkeypatch.setattr("edgebig.runtime.onnxruntime_gpu.import_cuda", FakeCuda)
    monkeypatch.setattr("edgebig.runtime.gpu.engine.import_tensorrt", lambda flavour: FakeTensorRt(FakeCuda()))
    engines = [("tensorrt", "10.3.0", "8.7")]
    bundle = tiny.write_bundle(
        tmp_path / "b", {"model": tiny.add_one()}, target=tiny.L4_TARGET, engines=engines, quantized=True, external=True
    )
    expected = (
        r"compiled for l4 and runs on ONNX Runtime here: built for TensorRT 10\.3 on sm_87; this machine has 10\.3 on "
        r"sm_89: run 'edgebig finish .*b'$"
    )
    with pytest.warns(RuntimeWarning, match=expected):
        session = load(bundle.path)
    with session:
        assert session.backend == "onnxruntime-tensorrt"
        assert session.run(X)["y"].tolist() == [[1, 1, 1]]
    providers, level = ort.opened[0]
    assert level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert providers[0][1]["trt_engine_cache_path"].startswith(str(tmp_path / "cache/onnxruntime-tensorrt"))
    with load(bundle.path, prefer="onnxruntime-cuda") as session:
        assert session.run(X)["y"].tolist() == [[1, 1, 1]]
    assert ort.opened[-1][0][0][0] == "CUDAExecutionProvider"
    (tmp_path / "capi/libonnxruntime_providers_tensorrt.so").unlink()
    with pytest.warns(RuntimeWarning, match="runs on ONNX Runtime here"):
        session = load(bundle.path)
    assert session.backend == "onnxruntime-cuda"
    assert "does not find libonnxruntime_providers_tensorrt.so" in session.why[1]
    session.close()
    ort.falls_back = True
    with pytest.warns(RuntimeWarning, match="runs on the CPU here"):
        session = load(bundle.path)
    assert session.backend == "onnxruntime-cpu"
    assert any("fell back to CPUExecutionProvider" in line for line in session.why)
    session.close()


@pytest.mark.usefixtures("without_cuda")
def test_a_bundle_for_an_nvidia_device_warns_once_when_the_cpu_runs_it(tmp_path: Path) -> None:
    engines = [("tensorrt-rtx", "1.7.1", "8.9")]
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()}, target=tiny.L4_TARGET, engines=engines)
    with pytest.warns(RuntimeWarning) as caught, load(tmp_path / "b") as session:
        assert session.run(X)["y"].tolist() == [[1, 1, 1]]
    reason = 'this needs edgebig[gpu] (cuda-python is not installed): pip install "edgebig[gpu]"'
    assert [str(w.message) for w in caught] == [
        f"{tmp_path / 'b'} was compiled for l4 and runs on the CPU here: {reason}; "
        f"where the device is, 'edgebig finish {tmp_path / 'b'}' mends it (--dry-run says what is missing); "
        "for speed on this CPU compile the model with '--target cpu'"
    ]
    assert caught[0].filename == __file__
    assert session.why[0] == f"tensorrt-rtx with engines/model.0.engine: not taken: {reason}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path / "b", require="onnxruntime-cpu").close()


@pytest.mark.usefixtures("without_cuda")
def test_a_preferred_backend_goes_first_and_another_serves_with_a_warning(tmp_path: Path) -> None:
    engines = [("tensorrt-rtx", "1.7.1", "8.9"), ("onnxruntime", onnxruntime.__version__, tiny.this_machine())]
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()}, target=tiny.L4_TARGET, engines=engines)
    with pytest.warns(RuntimeWarning) as caught:
        session = load(tmp_path / "b", prefer="tensorrt-rtx")
    assert session.backend == "onnxruntime-cpu" and session.run(X)["y"].tolist() == [[1, 1, 1]]
    assert [str(w.message) for w in caught] == [
        f"{tmp_path / 'b'} runs on onnxruntime-cpu, not on tensorrt-rtx as preferred: this needs edgebig[gpu] "
        '(cuda-python is not installed): pip install "edgebig[gpu]"; '
        f"'edgebig finish {tmp_path / 'b'}' on the device builds its engine"
    ]
    assert caught[0].filename == __file__
    with pytest.warns(
        RuntimeWarning, match="not on cuda as preferred: there is no backend of that name; there are tensorrt, .*-cpu$"
    ):
        load(tmp_path / "b", prefer="cuda").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = load(tmp_path / "b", prefer="onnxruntime-cpu")
    assert session.why[0].startswith("onnxruntime-cpu with engines/model.1.engine: taken: ")
    assert session.why[1] == PORTABLE + "not taken: one before it serves"
    missing = 'this needs edgebig[gpu] (cuda-python is not installed): pip install "edgebig[gpu]"'
    assert f"tensorrt-rtx with engines/model.0.engine: not taken: {missing}" in session.why[2:]
    with pytest.raises(UsageError, match="prefer='a' and require='b' contradict each other: give one of them"):
        load(tmp_path / "b", prefer="a", require="b")


@pytest.mark.usefixtures("without_cuda")
def test_the_advice_mends_what_is_missing(tmp_path: Path) -> None:
    """A bundle for a CPU gets no engine by being finished."""
    tiny.write_bundle(tmp_path / "cpu", {"model": tiny.add_one()})
    tiny.write_bundle(tmp_path / "l4", {"model": tiny.add_one()}, target=tiny.L4_TARGET)
    for name, prefer, advice in (
        ("cpu", "tensorrt", "holds nothing for it; it is for a CPU: compile the model with the '--target' of a GPU"),
        ("l4", "tensorrt", f"holds nothing for it; 'edgebig finish {tmp_path / 'l4'}' on the device builds its engine"),
        ("l4", "onnxruntime-cuda", "has no CUDA provider: .*; 'edgebig doctor' says what is missing"),
    ):
        with pytest.warns(RuntimeWarning, match=advice):
            load(tmp_path / name, threads=1, prefer=prefer).close()


def test_a_graph_that_is_the_engine_is_one_candidate(tmp_path: Path) -> None:
    """As in bundles for CPUs: ``why`` would else say of one file that it is taken and that it is not."""
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    part = bundle.part()
    for hardware, expected in (
        (tiny.this_machine(), ["taken: optimized for "]),
        ("other", ["not taken: it is for other", "taken: the portable graph"]),
    ):
        engine = Engine(part.graph, "onnxruntime", onnxruntime.__version__, (hardware,))
        parts = {"model": replace(part, engines=(engine,))}
        session = load(Bundle(bundle.path, replace(bundle.manifest, parts=parts)), threads=1)
        assert len(session.why) == len(expected)
        for line, said in zip(session.why, expected, strict=True):
            assert line.startswith(f"onnxruntime-cpu with {part.graph}: {said}")


@pytest.mark.usefixtures("without_cuda")
def test_a_required_backend_is_taken_or_nothing_is(tmp_path: Path) -> None:
    engines = [("tensorrt-rtx", "1.7.1", "8.9")]
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()}, target=tiny.L4_TARGET, engines=engines)
    with pytest.raises(BackendError, match="nothing on this machine runs it: tensorrt-rtx with .*cuda-python"):
        load(tmp_path / "b", require="tensorrt-rtx")
    with pytest.raises(
        BackendError, match="nothing for the backend 'cuda': it has tensorrt-rtx, onnxruntime-tensorrt, "
    ):
        load(tmp_path / "b", require="cuda")


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what import sees when it is not installed
    expected = 'this needs edgebig[cpu] (onnxruntime is not installed): pip install "edgebig[cpu]"'
    (candidate,) = available_backends(bundle)
    assert (candidate.usable, candidate.reason) == (False, expected)
    with pytest.raises(MissingExtra) as caught:
        load(bundle.path)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("target", "quantized", "optimize"),
    [
        (tiny.CPU_TARGET, True, True),
        (tiny.CPU_TARGET, False, True),
        (tiny.L4_TARGET, True, False),
        (tiny.L4_TARGET, False, True),
    ],
)
def test_only_quantized_graphs_for_other_devices_are_held_at_basic(
    tmp_path: Path, target: dict[str, object], quantized: bool, optimize: bool
) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()}, target=target, quantized=quantized)
    candidates = available_backends(Bundle.open(bundle.path))
    backends = ["onnxruntime-cpu"]
    if target is tiny.L4_TARGET:
        backends = ["onnxruntime-tensorrt", "onnxruntime-cuda", *backends]
    assert [(c.backend, c.optimize) for c in candidates] == [(backend, optimize) for backend in backends]


def test_an_fp8_graph_gives_on_the_cpu_what_its_arithmetic_says(tmp_path: Path) -> None:
    model, x, expected = _fp8_matmul()
    bundle = tiny.write_bundle(tmp_path / "b", {"model": model}, target=tiny.L4_TARGET, quantized=True)
    with load(bundle.path, require="onnxruntime-cpu") as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-5)


def _fp8_matmul() -> tuple[onnx.ModelProto, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """``y = dq(q(relu(x))) dq(q(w))`` with values that E4M3 holds exactly, so that ``y`` is ``relu(x) w``.

    Above BASIC, ONNX Runtime 1.32 drops the Relu before a QuantizeLinear of FP8.
    """
    x = np.array([[0.5, -2.0, 3.5, 8.0]], np.float32)
    w = np.array([[1.0, -4.0], [0.25, 2.0], [-6.0, 0.5], [1.5, 1.0]], np.float32)
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    zero = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0.0])
    nodes = [
        helper.make_node("Relu", ["x"], ["active"]),
        helper.make_node("QuantizeLinear", ["active", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["wq"]),
        helper.make_node("DequantizeLinear", ["wq", "scale", "zero"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "fp8",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(w, "w"), scale, zero],
    )
    opset = helper.make_opsetid("", tiny.OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=tiny.IR_VERSION), x, np.maximum(x, 0) @ w
