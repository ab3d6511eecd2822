"""Sessions open also where a fusion of ONNX Runtime fails.

That version 1.23 opens real ones is what ``test_architectures.py`` shows there.
"""

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


def norm(number: int, x: str) -> list[onnx.NodeProto]:
    """``2 x / sqrt(mean(x**2) + 2**-10)``, the exponent shared by all norms."""
    return [
        node("Pow", f"{x} two", f"squares{number}"),
        node("ReduceMean", f"squares{number}", f"mean{number}", axes=[-1]),
        node("Add", f"mean{number} least", f"more{number}"),
        node("Sqrt", f"more{number}", f"root{number}"),
        node("Div", f"one root{number}", f"inverse{number}"),
        node("Mul", f"{x} inverse{number}", f"normed{number}"),
        node("Mul", f"scale normed{number}", f"scaled{number}"),
    ]


@pytest.fixture
def norms(tmp_path: Path) -> Path:
    """Two norms in FP16 of rows of ``X``, as those of Llama are once they were lowered."""
    made = model(
        [
            node("Gather", "table row", "h"),
            *norm(0, "h"),
            node("Add", "h scaled0", "sum"),
            *norm(1, "sum"),
            node("Cast", "scaled1", "y", to=onnx.TensorProto.FLOAT),
        ],
        {"row": ["n"]},
        ["y"],
        {
            "table": X.astype(np.float16),
            "one": np.array(1, np.float16),
            "two": np.array(2, np.float16),
            "least": np.array(2**-10, np.float16),
            "scale": np.full(4, 2, np.float16),
        },
        opset=17,
        types={"row": "int64"},
    )
    onnx.save(made, tmp_path / "norms.onnx")
    return tmp_path / "norms.onnx"


def test_norms_in_fp16_run_with_every_optimization(norms: Path) -> None:
    def normed(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return 2 * x / np.sqrt((x**2).mean(-1, keepdims=True) + 2**-10)

    feeds, right = {"row": np.arange(len(X))}, normed(X + normed(X))
    with Executor(Graph.load(norms), "all") as executor:
        np.testing.assert_allclose(executor.run(feeds)["y"], right, rtol=3e-3)
    np.testing.assert_allclose(OnnxRuntimeCpu(norms, optimize=True).run(["y"], feeds)[0], right, rtol=3e-3)


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
