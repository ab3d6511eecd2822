"""Small hand-made graphs for tests, each written as a list of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from edgebig.calibrate import Range, Ranges, collect_ranges
from edgebig.graph import Executor, Graph
from edgebig.quantize import observed_tensors

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """A node named like its first output; ``inputs`` and ``output`` are names with spaces between, ``-`` for none."""
    names = ["" if n == "-" else n for n in inputs.split()]
    outputs = output.split()
    return helper.make_node(op, names, outputs, name=outputs[0], **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Iterable[str],
    weights: Mapping[str, Array] | None = None,
    *,
    opset: int = 19,
    types: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """A checked model; inputs are float32 where ``types`` says nothing, and the outputs' shapes are inferred."""
    kinds = {k: _TYPES[v] for k, v in (types or {}).items()}
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(k, kinds.get(k, TensorProto.FLOAT), list(v)) for k, v in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in (weights or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    made = infer_shapes(made, check_type=True, strict_mode=True)
    onnx.checker.check_model(made)
    return made


def net(*args: Any, **kwargs: Any) -> Graph:
    """:func:`model` as the graph that the stages take."""
    return Graph(ir.from_proto(model(*args, **kwargs)), "net")


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Normal numbers, the same on every call."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def samples_for(graph: Graph, count: int, seed: int = 1, batch: int = 1) -> list[Sample]:
    """Standard normal samples for float inputs; dynamic axes get ``batch``."""
    random = np.random.default_rng(seed)
    shapes = {s.name: [d if isinstance(d, int) else batch for d in s.shape] for s in graph.inputs}
    return [{k: random.standard_normal(v).astype(np.float32) for k, v in shapes.items()} for _ in range(count)]


def ranges_of(graph: Graph, samples: Sequence[Sample]) -> Ranges:
    """The ranges of all float activations over the samples."""
    located = [(f"sample {i}", s) for i, s in enumerate(samples)]
    return collect_ranges(graph, observed_tensors(graph), located, "test", lambda count: None)


def flat_ranges(graph: Graph, low: float = -1.0, high: float = 1.0) -> Ranges:
    """The same range for every float activation."""
    return Ranges({name: Range(low, high) for name in observed_tensors(graph)}, 1, "min-max", "made")


def run(graph: Graph, sample: Sample, level: Any = "off") -> Sample:
    """The outputs of one run."""
    with Executor(graph, level) as executor:
        return executor.run(sample)


def op_types(graph: Graph) -> list[str]:
    """Operators of the main graph, in order."""
    return [n.op_type for n in graph.model.graph]


def conv_net() -> Graph:
    """x 1x3x8x8 -> conv1 -> relu -> pool -> conv2 -> y; convolutions with biases."""
    return net(
        [
            node("Conv", "x w1 b1", "conv1", pads=[1, 1, 1, 1]),
            node("Relu", "conv1", "relu"),
            node("MaxPool", "relu", "pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "pool w2 b2", "conv2", pads=[1, 1, 1, 1]),
            node("Relu", "conv2", "relu2"),
            node("GlobalAveragePool", "relu2", "mean"),
            node("Flatten", "mean", "flat"),
            node("Gemm", "flat w3 b3", "y", transB=1),
        ],
        {"x": ["batch", 3, 8, 8]},
        ["y"],
        {
            "w1": normal(8, 3, 3, 3, seed=1, scale=0.3),
            "b1": normal(8, seed=2),
            "w2": normal(8, 8, 3, 3, seed=3, scale=0.2),
            "b2": normal(8, seed=4),
            "w3": normal(4, 8, seed=5),
            "b3": normal(4, seed=6),
        },
    )


def residual_net() -> Graph:
    """x 1x8x8x8: conv1 -> relu1 -> conv2, then add = conv2 + x, relu2, conv3 -> y."""
    return net(
        [
            node("Conv", "x w1 b1", "conv1", pads=[1, 1, 1, 1]),
            node("Relu", "conv1", "relu1"),
            node("Conv", "relu1 w2 b2", "conv2", pads=[1, 1, 1, 1]),
            node("Add", "conv2 x", "add"),
            node("Relu", "add", "relu2"),
            node("Conv", "relu2 w3 b3", "y", pads=[1, 1, 1, 1]),
        ],
        {"x": ["batch", 8, 8, 8]},
        ["y"],
        {f"w{i}": normal(8, 8, 3, 3, seed=i, scale=0.1) for i in (1, 2, 3)}
        | {f"b{i}": normal(8, seed=10 + i) for i in (1, 2, 3)},
    )


def attention_net(mask: float | None = None) -> Graph:
    """x 1x4x16: softmax(q kᵀ / 4 + mask) v, then an output projection with a residual addition -> y 1x4x16."""
    scores = [node("MatMul", "q kt", "qk"), node("Mul", "qk quarter", "scaled")]
    weights = {n: normal(16, 16, seed=i, scale=0.25) for i, n in enumerate(("wq", "wk", "wv", "wo"))}
    weights["quarter"] = np.array(0.25, np.float32)
    last = "scaled"
    if mask is not None:
        scores.append(node("Add", "scaled mask", "masked"))
        weights["mask"] = np.triu(np.full((4, 4), mask, np.float32), 1)
        last = "masked"
    return net(
        [
            node("MatMul", "x wq", "q"),
            node("MatMul", "x wk", "k"),
            node("MatMul", "x wv", "v"),
            node("Transpose", "k", "kt", perm=[0, 2, 1]),
            *scores,
            node("Softmax", last, "p", axis=-1),
            node("MatMul", "p v", "mixed"),
            node("MatMul", "mixed wo", "projected"),
            node("Add", "projected x", "y"),
        ],
        {"x": ["batch", 4, 16]},
        ["y"],
        weights,
    )
