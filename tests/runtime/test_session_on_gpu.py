"""A session over the TensorRT backend: bindings, arrays on the GPU and statistics reach it; on a fake device."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cuda import FakeCuda

from edgebig.bundle import Bundle
from edgebig.errors import BackendError, InputError
from edgebig.runtime import load
from edgebig.runtime.backend import Binds, Measures
from edgebig.runtime.tensorrt import TensorRtBackend

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_binding_is_a_cuda_graph_on_page_locked_arrays(cuda: FakeCuda, gpu_bundle: Bundle) -> None:
    assert issubclass(TensorRtBackend, Binds) and issubclass(TensorRtBackend, Measures)
    with load(gpu_bundle.path) as session:
        binding = session.bind({"batch": 2})
        cuda.calls.clear()
        for start in range(3):
            binding.inputs["x"][...] = X + start
            np.testing.assert_array_equal(binding.run()["y"], X + start + 1)
        assert cuda.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"] * 3
        assert session.stats().device_memory
        with pytest.raises(InputError, match="the engine takes 1x3 to 8x3"):
            session.bind({"batch": 9})
    del binding


def test_arrays_on_the_gpu_pass_the_session(cuda: FakeCuda, gpu_bundle: Bundle) -> None:
    with load(gpu_bundle.path) as session:
        x = session.run_on_device({"x": X})["y"]
        assert session.stats().calls == 1
        np.testing.assert_array_equal(session.run({"x": x})["y"], X + 2)
        with pytest.raises(InputError, match="the engine takes 1x3 to 8x3"):
            session.run({"x": np.zeros((9, 3), np.float32)})
        with pytest.raises(InputError, match="no output 'z'"):
            session.run_on_device({"x": X}, ["z"])
    np.testing.assert_array_equal(x.numpy(), X + 1)
    del x
    with (
        load(gpu_bundle.path, require="onnxruntime-cpu") as session,
        pytest.raises(BackendError, match=r"onnxruntime-cpu has no device that outputs could stay on: use run\(\)"),
    ):
        session.run_on_device({"x": X})
