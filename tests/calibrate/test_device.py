"""Where samples run: the choice here, and on a GPU the same ranges within a bin."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest
from nets import attention_net, conv_net, samples_for

import edgebig
from edgebig.calibrate import METHODS, collect
from edgebig.errors import CalibrationError
from edgebig.graph import Executor
from edgebig.graph.execute import best_device
from edgebig.quantize import observed_tensors

_HAS_CUDA = "CUDAExecutionProvider" in ort.get_available_providers()


def test_cuda_is_taken_where_its_provider_is() -> None:
    assert best_device(["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]) == "cuda"
    assert best_device(["AzureExecutionProvider", "CPUExecutionProvider"]) == "cpu"


@pytest.mark.skipif(_HAS_CUDA, reason="this ONNX Runtime has CUDA")
def test_where_it_cannot_run_on_cuda_it_says_so(tmp_path: Path) -> None:
    with Executor(conv_net(), device="cuda") as executor:
        assert executor.device == "cpu"
    recipe = edgebig.Recipe().with_calibration({"device": "cuda"})
    path = tmp_path / "conv.onnx"
    graph = conv_net()
    graph.save(path)
    with pytest.raises(CalibrationError, match="--calib-device cuda: this ONNX Runtime has no CUDA that works"):
        edgebig.compile(
            path, recipe=recipe, precision="int8", calibration=samples_for(graph, 8, batch=1), out=tmp_path / "b"
        )
    assert not (tmp_path / "b").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not _HAS_CUDA, reason="no CUDA provider in this ONNX Runtime")
@pytest.mark.parametrize("make", [conv_net, attention_net])
def test_ranges_on_cuda_differ_by_a_bin_at_most(make) -> None:
    graph = make()
    samples = samples_for(graph, 8, batch=2)
    tensors = observed_tensors(graph)
    found = {}
    for device in ("cpu", "cuda"):
        located = [(str(i), s) for i, s in enumerate(samples)]
        collected = collect(graph, tensors, located, "test", counted=tensors, device=device)
        assert collected.device == device
        found[device] = collected
    for method in (METHODS[name]() for name in ("min-max", "percentile", "mse")):
        on_cpu, on_cuda = (found[d].ranges(method).by_tensor for d in ("cpu", "cuda"))
        for name in tensors:
            histogram = found["cpu"].statistics[name].histogram
            assert histogram is not None
            for a, b in ((on_cpu[name].min, on_cuda[name].min), (on_cpu[name].max, on_cuda[name].max)):
                assert abs(a - b) <= histogram.width * 1.01, (method.name, name)
