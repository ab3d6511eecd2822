"""ONNX models from ONNX's own text form, and runs of them that use nothing of edgebig."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper

from edgebig.graph import Graph

Array = np.ndarray[Any, Any]


def net(
    inputs: str,
    outputs: str,
    body: str,
    weights: Mapping[str, Any] | None = None,
    opset: int = 19,
    ir_version: int = 9,
    check: bool = True,
) -> onnx.ModelProto:
    """A model of the nodes in ``body``, as ``net("float[N,3] x", "float[N,3] y", "y = Relu(x)")``."""
    domains = '"" : ' + str(opset)
    text = f"<ir_version: {ir_version}, opset_import: [{domains}]> tiny ({inputs}) => ({outputs}) {{ {body} }}"
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(w), n) for n, w in (weights or {}).items())
    if check:
        onnx.checker.check_model(model, full_check=True)
    return model


def as_graph(model: onnx.ModelProto) -> Graph:
    """The model as a graph of its own: changes of the graph leave the model as it is."""
    return Graph(ir.from_proto(onnx.ModelProto.FromString(model.SerializeToString())), "tiny")


def as_model(graph: Graph) -> onnx.ModelProto:
    """The graph as a valid model."""
    model: onnx.ModelProto = ir.to_proto(graph.model)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto | Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs, computed by ONNX Runtime without any of its optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def assert_near(found: Mapping[str, Array], expected: Mapping[str, Array], relative: float = 1e-5) -> None:
    """The same names, dtypes and shapes, and values within ``relative`` of each output's largest."""
    assert list(found) == list(expected)
    for name, right in expected.items():
        assert (found[name].dtype, found[name].shape) == (right.dtype, right.shape), name
        a, b = found[name].astype(np.float64), right.astype(np.float64)
        worst = np.abs(a - b).max(initial=0.0)
        assert worst <= relative * max(np.abs(b).max(initial=0.0), 1e-6), f"{name} differs by {worst}"


def assert_same(graph: Graph, model: onnx.ModelProto, feeds: Mapping[str, Array], relative: float = 1e-5) -> None:
    """The graph is valid and computes what the model does, by the same names."""
    assert_near(run(as_model(graph), feeds), run(model, feeds), relative)


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Normally distributed numbers, the same at each call."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)
