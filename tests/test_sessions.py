"""Sessions open also where a fusion of ONNX Runtime fails."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from nets import model, node

from edgebig.graph import Executor, Graph
from edgebig.runtime.onnxruntime_cpu import OnnxRuntimeCpu
from edgebig.sessions import open_session

X = np.linspace(-2, 3, 12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def rms_norm(tmp_path: Path) -> Path:
    """``y = x / sqrt(mean(x**2) + 2**-10)`` in FP16, as Llama's norms are once they were lowered."""
    made = model(
        [
            node("Cast", "x", "h", to=onnx.TensorProto.FLOAT16),
            node("Pow", "h two", "squares"),
            node("ReduceMean", "squares", "mean", axes=[-1]),
            node("Add", "mean least", "more"),
            node("Sqrt", "more", "root"),
            node("Div", "h root", "normed"),
            node("Mul", "normed scale", "scaled"),
            node("Cast", "scaled", "y", to=onnx.TensorProto.FLOAT),
        ],
        {"x": ["n", 4]},
        ["y"],
        {"two": np.array(2, np.float16), "least": np.array(2**-10, np.float16), "scale": np.ones(4, np.float16)},
        opset=17,
    )
    onnx.save(made, tmp_path / "norm.onnx")
    return tmp_path / "norm.onnx"


def test_norms_in_fp16_run_with_every_optimization(rms_norm: Path) -> None:
    right = X / np.sqrt((X**2).mean(-1, keepdims=True) + 2**-10)
    with Executor(Graph.load(rms_norm), "all") as executor:
        np.testing.assert_allclose(executor.run({"x": X})["y"], right, rtol=3e-3)
    np.testing.assert_allclose(OnnxRuntimeCpu(rms_norm, optimize=True).run(["y"], {"x": X})[0], right, rtol=3e-3)


class Failing:
    """An ``onnxruntime`` whose sessions fail unless these optimizers are left out."""

    def __init__(self, fails: str, message: str) -> None:
        self.fails, self.message = fails, message
        self.asked: list[list[str]] = []

    def InferenceSession(self, model: str, options: Any, *, providers: Any, disabled_optimizers: list[str]) -> Any:
        self.asked.append(disabled_optimizers)
        if self.fails not in disabled_optimizers:
            raise RuntimeError(self.message)
        return SimpleNamespace(model=model, options=options, providers=providers)


def test_the_fusion_that_fails_is_left_out_and_no_other_error_is_hidden() -> None:
    broken = Failing("SimplifiedLayerNormFusion", "a name which does not exist:InsertedPrecisionFreeCast_two")
    opened = open_session(broken, "m.onnx", 7, providers=["CPU"], without=["SkipLayerNormFusion"])
    assert (opened.model, opened.options, opened.providers) == ("m.onnx", 7, ["CPU"])
    assert broken.asked == [["SkipLayerNormFusion"], ["SkipLayerNormFusion", "SimplifiedLayerNormFusion"]]
    other = Failing("nothing", "no kernel for Frobnicate")
    with pytest.raises(RuntimeError, match="Frobnicate"):
        open_session(other, "m.onnx", None, providers=["CPU"])
    assert other.asked == [[]]
