"""Times of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from edgebig.bundle import Bundle
from edgebig.errors import BackendError
from edgebig.runtime import available_backends
from edgebig.runtime.profiling import _of_events, layer_times, onnxruntime_layers


def _lopsided() -> onnx.ModelProto:
    """A product of 256 x 256 matrices, named ``heavy``, and one negation of a scalar, named ``light``."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="heavy"),
        helper.make_node("Neg", ["s"], ["z"], name="light"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [256, 256]), ("s", []))]
    out = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("y", [256, 256]), ("z", []))]
    weights = [numpy_helper.from_array(np.ones((256, 256), np.float32), "w")]
    graph = helper.make_graph(nodes, "g", values, out, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", tiny.OPSET)], ir_version=tiny.IR_VERSION)


def test_the_heavy_layer_takes_longest_on_onnxruntime(tmp_path: Path) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"model": _lopsided()})
    feeds = {"x": np.ones((256, 256), np.float32), "s": np.array(2, np.float32)}
    found = layer_times(bundle, available_backends(bundle), feeds, threads=1)
    assert found is not None
    times = dict(found)
    assert set(times) == {"heavy (MatMul)", "light (Neg)"}
    assert times["heavy (MatMul)"] > 10 * times["light (Neg)"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]


def test_what_onnxruntime_refuses(tmp_path: Path) -> None:
    onnx.save(_lopsided(), tmp_path / "g.onnx")
    with pytest.raises(BackendError, match=r"makes no profile of g\.onnx: .*s"):
        onnxruntime_layers(tmp_path / "g.onnx", {"x": np.ones((256, 256), np.float32)}, optimize=True)


def test_the_first_runs_do_not_count() -> None:
    def event(name: str, microseconds: int, **more: Any) -> dict[str, Any]:
        return {"cat": "Node", "name": name, "dur": microseconds, "args": {"op_name": "Add"}, **more}

    runs = [event("a_kernel_time", 1000 * n) for n in (90, 80, 1, 2, 3, 4, 5)]
    others = [event("a_fence_before", 7), event("model_run", 7, cat="Session")]
    assert _of_events([*runs, *others]) == [("a (Add)", 3.0)]
    looped = [event("b_kernel_time", 1000) for _ in range(14)]  # twice in each run
    assert _of_events(looped) == [("b (Add)", 2.0)]
    assert _of_events([]) == []


def test_tensorrt_tells_its_own(gpu_bundle: Bundle) -> None:
    found = layer_times(gpu_bundle, available_backends(gpu_bundle), {"x": np.zeros((1, 3), np.float32)})
    assert found == [("add", 0.25)]
