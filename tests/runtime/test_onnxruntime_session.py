"""ONNX Runtime's session without its Python class: the same answers, and the class where a version differs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny

from edgebig.errors import BackendError
from edgebig.runtime.onnxruntime_cpu import OnnxRuntimeCpu
from edgebig.runtime.onnxruntime_session import NativeSession, open_on_cpu


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(tiny.mlp(), tmp_path / "mlp.onnx")
    return tmp_path / "mlp.onnx"


def without_native(**native: Any) -> Any:
    """The module as a version of ONNX Runtime might be whose inner session is another."""
    inner = SimpleNamespace(**native)
    public = {
        name: getattr(onnxruntime, name) for name in ("InferenceSession", "OrtValue", "SessionOptions", "RunOptions")
    }
    return SimpleNamespace(**public, __version__="99.0.0", capi=SimpleNamespace(_pybind_state=inner))


def other_arguments(path: str) -> None:
    raise AssertionError(f"called with {path} alone")


@pytest.mark.parametrize("native", [{}, {"InferenceSession": other_arguments}], ids=["none", "other arguments"])
def test_where_a_version_is_made_otherwise_the_public_class_serves(
    graph: Path, native: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.arange(8, dtype=np.float32)[None]
    usual = OnnxRuntimeCpu(graph, optimize=True, threads=1)
    assert isinstance(usual._session, NativeSession)
    monkeypatch.setattr("edgebig.runtime.onnxruntime_cpu.import_onnxruntime", lambda: without_native(**native))
    other = OnnxRuntimeCpu(graph, optimize=True, threads=1)
    assert isinstance(other._session, onnxruntime.InferenceSession)
    assert (usual.inputs, usual.outputs) == (other.inputs, other.outputs)
    names = [spec.name for spec in usual.outputs]
    for backend in (usual, other):
        found = backend.run(names, {"x": x})
        expected = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(names, {"x": x})
        np.testing.assert_array_equal(found, expected)
        bound = backend.bind({"x": x}, dict.fromkeys(names))
        np.testing.assert_array_equal(bound.run(), expected)
        backend.close()
        with pytest.raises(BackendError, match="closed"):
            _ = backend.inputs


def test_it_runs_on_the_cpu_and_refuses_what_the_class_refuses(graph: Path, tmp_path: Path) -> None:
    session = open_on_cpu(onnxruntime, str(graph), onnxruntime.SessionOptions(), [])
    assert session.get_providers() == ["CPUExecutionProvider"]
    (tmp_path / "odd.onnx").write_bytes(b"no graph")
    messages = []
    for opened in (
        lambda path: open_on_cpu(onnxruntime, path, onnxruntime.SessionOptions(), []),
        lambda path: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]),
    ):
        with pytest.raises(Exception, match="odd.onnx") as caught:
            opened(str(tmp_path / "odd.onnx"))
        messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]
