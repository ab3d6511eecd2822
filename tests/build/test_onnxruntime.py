"""optimize_for_cpu: ONNX Runtime's own fused graph, which computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from textnets import assert_near, net, normal, run

import edgebig.build.onnxruntime as build_module
from edgebig.build import optimize_for_cpu
from edgebig.errors import BuildError

GELU = "a = MatMul(x, w) s = Div(a, root) e = Erf(s) p = Add(e, one) m = Mul(a, p) y = Mul(m, half)"
CONSTANTS = {"root": np.sqrt(np.float32(2)), "one": np.float32(1), "half": np.float32(0.5)}


def test_fusions_are_written_and_the_numbers_stay(tmp_path: Path) -> None:
    model = net("float[N,8] x", "float[N,8] y", GELU, {"w": normal(8, 8), **CONSTANTS})
    onnx.save(model, tmp_path / "gelu.onnx")
    assert optimize_for_cpu(tmp_path / "gelu.onnx", tmp_path / "out.onnx") == onnxruntime.__version__
    fused = onnx.load(tmp_path / "out.onnx")
    assert [n.op_type for n in fused.graph.node] == ["MatMul", "Gelu"]
    feeds = {"x": normal(3, 8)}
    assert_near(run(tmp_path / "out.onnx", feeds), run(model, feeds))


def test_large_weights_go_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "_EXTERNAL_ABOVE", 1000)
    model = net("float[N,64] x", "float[N,64] y", "y = MatMul(x, w)", {"w": normal(64, 64)})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    (tmp_path / "out").mkdir()
    optimize_for_cpu(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx")
    assert (tmp_path / "out" / "m.onnx.data").stat().st_size >= 64 * 64 * 4
    feeds = {"x": normal(2, 64)}
    model = net("float[N,64] x", "float[N,64] y", "y = MatMul(x, w)", {"w": normal(64, 64)})
    assert_near(run(tmp_path / "out" / "m.onnx", feeds), run(model, feeds))


def test_a_graph_that_onnx_runtime_refuses_is_named(tmp_path: Path) -> None:
    onnx.save(net("float[2] x", "float[2] y", "y = NoSuchOperator(x)", check=False), tmp_path / "odd.onnx")
    with pytest.raises(BuildError, match=r"ONNX Runtime refuses the graph odd: .*NoSuchOperator"):
        optimize_for_cpu(tmp_path / "odd.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    onnx.save(tiny.mlp(), tmp_path / "m.onnx")
    with pytest.raises(BuildError):
        optimize_for_cpu(tmp_path / "m.onnx", tmp_path / "none" / "out.onnx")
