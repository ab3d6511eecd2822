"""RaiseOpset: old models become new ones that compute the same and take what comes after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from textnets import as_graph, as_model, assert_near, assert_same, net, normal, run

from edgebig.graph import Graph
from edgebig.graph.passes import FoldBatchNorm, FoldConstants, NameNodes, RaiseOpset, RemoveNoOps, run_passes

BN = {"g": normal(4, seed=1), "b": normal(4, seed=2), "m": normal(4, seed=3), "v": np.abs(normal(4, seed=4)) + 0.5}
CONV = {"w": normal(4, 3, 3, 3, seed=5), **BN}
OLD_BODY = """
    c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w)
    n = BatchNormalization<epsilon = 0.001>(c, g, b, m, v)
    r = Relu(n) d, mask = Dropout<ratio = 0.4>(r)
    p = GlobalAveragePool(d) f = Flatten(p) y = Softmax<axis = 1>(f)
"""
SHAPES = ("float[N,3,6,6] x", "float[N,4] y")


def old_model(tmp_path: Path, opset: int = 7) -> tuple[onnx.ModelProto, Graph]:
    """A convolutional network as exporters of that opset wrote it, its weights among the inputs."""
    dims = ", ".join(f"float[{','.join(map(str, w.shape))}] {name}" for name, w in CONV.items())
    model = net(f"{SHAPES[0]}, {dims}", SHAPES[1], OLD_BODY, CONV, opset=opset, ir_version=3)
    onnx.save(model, tmp_path / "old.onnx")
    return model, Graph.load(tmp_path / "old.onnx")


@pytest.mark.parametrize("opset", [7, 8, 9])
@pytest.mark.parametrize("goal", [17, 19, 21])
def test_an_old_network_is_raised_and_computes_the_same(tmp_path: Path, opset: int, goal: int) -> None:
    model, graph = old_model(tmp_path, opset)
    report = run_passes(graph, [RaiseOpset(goal)])[0]
    assert report.changed == (f"opset {opset} became {goal}",)
    assert graph.opset == goal
    assert [s.name for s in graph.inputs] == ["x"]
    assert_same(graph, model, {"x": normal(2, 3, 6, 6)})


def test_per_channel_quantization_of_an_old_network_is_valid(tmp_path: Path) -> None:
    """Per-channel Q/DQ in an opset-7 model would be an invalid graph; after the pass it is a valid one."""
    model, graph = old_model(tmp_path)
    run_passes(graph, [RaiseOpset(19), FoldBatchNorm(), FoldConstants(), RemoveNoOps(), NameNodes()])
    (conv,) = [n for n in graph.nodes() if n.op_type == "Conv"]
    assert {n.op_type for n in graph.nodes()} == {"Conv", "Relu", "GlobalAveragePool", "Reshape", "Softmax"}
    weight = conv.inputs[1]
    assert weight is not None and weight.const_value is not None
    values = weight.const_value.numpy()
    scale = (np.abs(values).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    main = graph.model.graph
    extra = {"scale": scale, "zero": np.zeros(4, np.int8)}
    given = {k: ir.Value(name=k, const_value=ir.tensor(v, name=k)) for k, v in extra.items()}
    for value in given.values():
        value.type, value.shape = ir.TensorType(value.const_value.dtype), value.const_value.shape  # type: ignore
        main.register_initializer(value)
    axis = [ir.AttrInt64("axis", 0)]
    q = ir.Node("", "QuantizeLinear", [weight, given["scale"], given["zero"]], axis, name="q")
    dq = ir.Node("", "DequantizeLinear", [q.outputs[0], given["scale"], given["zero"]], axis, name="dq")
    q.outputs[0].name, dq.outputs[0].name = "quantized", "dequantized"
    main.insert_before(conv, [q, dq])
    conv.replace_input_with(1, dq.outputs[0])
    feeds = {"x": normal(2, 3, 6, 6)}
    assert_near(run(as_model(graph), feeds), run(model, feeds), 0.02)


@pytest.mark.parametrize(
    ("inputs", "outputs", "body", "opset"),
    [
        ("float[2,3,4] x", "float[2,3,4] y", "y = Softmax<axis = 1>(x)", 11),
        ("float[2,3,4] x", "float[2,3,4] y", "y = LogSoftmax(x)", 11),
        ("float[2,3,4] x", "float[2,4] y", "y = ReduceMean<axes = [1], keepdims = 0>(x)", 12),
        ("float[2,3,4] x", "float[2,1,1] y", "y = ReduceSum<axes = [1, 2]>(x)", 11),
        ("float[1,2,3] x", "float[2,3] y", "y = Squeeze<axes = [0]>(x)", 11),
        ("float[2,3] x", "float[2,1,3] y", "y = Unsqueeze<axes = [1]>(x)", 11),
        ("float[2,4] x", "float[2,1] y, float[2,3] z", "y, z = Split<axis = 1, split = [1, 3]>(x)", 11),
        ("float[2,4] x", "float[2,2] y, float[2,2] z", "y, z = Split<axis = 1>(x)", 13),
        ("float[2,4] x", "float[2,2] y", "y = Slice<axes = [1], starts = [1], ends = [3]>(x)", 9),
        ("float[2,4] x", "float[2,4] y", "y = Clip<min = -0.5, max = 0.5>(x)", 10),
        ("float[2,4] x", "float[4,6] y", 'y = Pad<pads = [1, 1, 1, 1], mode = "constant", value = 2.0>(x)', 10),
        ("float[2,4] x", "float[2,2] y, int64[2,2] i", "k = Constant<value = int64[1] {2}>() y, i = TopK(x, k)", 10),
        ("float[2,3] x", "float[2,3] y", "y = HardSwish(x)", 14),
    ],
)
def test_operators_whose_meaning_changed_keep_theirs(inputs: str, outputs: str, body: str, opset: int) -> None:
    model = net(inputs, outputs, body, opset=opset, ir_version=4)
    graph = as_graph(model)
    run_passes(graph, [RaiseOpset(19)])
    assert graph.opset == 19
    shape = tuple(int(d) for d in inputs[inputs.index("[") + 1 : inputs.index("]")].split(","))
    assert_same(graph, model, {"x": normal(*shape)})


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scale", [2.0, 3.0, 1.5])
@pytest.mark.parametrize(("op", "opset"), [("Upsample", 7), ("Upsample", 9), ("Resize", 10)])
def test_pictures_are_resized_as_before(op: str, opset: int, mode: str, scale: float) -> None:
    """Since opset 11 the default coordinates are others."""
    if opset == 7:
        body = f'y = Upsample<mode = "{mode}", scales = [1.0, 1.0, {scale}, {scale}]>(x)'
    else:
        body = f's = Constant<value = float[4] {{1, 1, {scale}, {scale}}}>() y = {op}<mode = "{mode}">(x, s)'
    model = net("float[1,1,4,4] x", "float[1,1,A,B] y", body, opset=opset, ir_version=4)
    graph = as_graph(model)
    run_passes(graph, [RaiseOpset(19)])
    assert_same(graph, model, {"x": normal(1, 1, 4, 4)})


def test_what_is_inside_branches_is_raised_too() -> None:
    body = """y = If(c) <then_branch = t () => (float[2,3] a) { a = Softmax<axis = 0>(x) },
                         else_branch = e () => (float[2,3] b) { b = Clip<min = 0.0>(x) }>"""
    model = net("float[2,3] x, bool c", "float[2,3] y", body, opset=10, ir_version=4)
    graph = as_graph(model)
    run_passes(graph, [RaiseOpset(19)])
    for flag in (True, False):
        assert_same(graph, model, {"x": normal(2, 3), "c": np.array(flag)})


def test_a_newer_graph_is_left_and_unused_operator_sets_are_dropped() -> None:
    graph = as_graph(net("float[2] x", "float[2] y", "y = Relu(x)", opset=21))
    assert RaiseOpset(19)(graph).changed == ()
    graph.model.opset_imports["com.microsoft"] = 1
    graph.model.opset_imports["ai.onnx.ml"] = 3
    assert RaiseOpset(19)(graph).changed == ("dropped the unused operator sets com.microsoft, ai.onnx.ml",)
    assert dict(graph.model.opset_imports) == {"": 21}
