"""RaiseToFloat32: half-precision graphs compute in float32 behind the inputs and outputs they had."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from textnets import as_graph, as_model, assert_near, net, normal, run

from edgebig.graph import Graph
from edgebig.graph.passes import FoldConstants, PassReport, RaiseToFloat32, RemoveNoOps, run_passes
from edgebig.spec import TensorSpec

HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def inner_dtypes(graph: Graph) -> set[ir.DataType | None]:
    """Of what is not an input or output of the model."""
    main = graph.model.graph
    outer = {id(v) for v in [*main.inputs, *main.outputs]}
    values = [v for n in graph.nodes() for v in [*n.inputs, *n.outputs] if v is not None and id(v) not in outer]
    return {v.dtype for v in values}


def raised(model: onnx.ModelProto) -> Graph:
    graph = as_graph(model)
    assert run_passes(graph, [RaiseToFloat32()])[0].changed
    assert not inner_dtypes(graph) & set(HALF)
    return graph


def test_an_fp16_network_keeps_its_interface_and_gains_accuracy() -> None:
    weights = {"w": normal(8, 16, dtype=np.float16), "b": normal(16, seed=1, dtype=np.float16)}
    body = "h = MatMul(x, w) a = Add(h, b) r = Relu(a) y = Softmax(r)"
    model = net("float16[N,8] x", "float16[N,16] y", body, weights)
    graph = raised(model)
    assert graph.inputs == (TensorSpec("x", "float16", ("N", 8)),)
    assert graph.outputs == (TensorSpec("y", "float16", ("N", 16)),)
    x = normal(4, 8, dtype=np.float16)
    exact = {k: v.astype(np.float32) for k, v in weights.items()}
    reference = run(net("float[N,8] x", "float[N,16] y", body, exact), {"x": x.astype(np.float32)})
    found = run(as_model(graph), {"x": x})
    np.testing.assert_array_equal(found["y"], reference["y"].astype(np.float16))
    assert_near(found, run(model, {"x": x}), 5e-3)


def test_bf16_weights_that_no_cpu_kernel_takes_run_after_it() -> None:
    """The weights are BF16, the model's interface float32: as checkpoints are exported."""
    weights = {"w": normal(8, 4).astype(ml_dtypes.bfloat16)}
    body = "k = Cast<to = 16>(x) h = MatMul(k, w) y = Cast<to = 1>(h)"
    graph = raised(net("float[N,8] x", "float[N,4] y", body, weights))
    assert [(s.dtype) for s in [*graph.inputs, *graph.outputs]] == ["float32", "float32"]
    expected = {"y": normal(3, 8) @ weights["w"].astype(np.float32)}
    assert_near(run(as_model(graph), {"x": normal(3, 8)}), expected)


def test_a_bf16_interface_is_kept() -> None:
    weights = {"w": normal(8, 4).astype(ml_dtypes.bfloat16)}
    graph = raised(net("bfloat16[N,8] x", "bfloat16[N,4] y", "y = MatMul(x, w)", weights))
    assert [s.dtype for s in [*graph.inputs, *graph.outputs]] == ["bfloat16", "bfloat16"]
    assert [n.op_type for n in graph.nodes()] == ["Cast", "MatMul", "Cast"]
    as_model(graph)


@pytest.mark.parametrize(
    "body",
    [
        "k = Constant<value = float16[2] {15360, 16384}>() y = Mul(x, k)",
        "s = Shape(x) k = ConstantOfShape<value = float16[1] {3}>(s) y = Add(x, k)",
        "f = Cast<to = 1>(x) e = Exp(f) y = Cast<to = 10>(e)",
        "h = Relu(x) y = Add(h, h)",
        "y = Identity(x)",
        "i = Shape(x) c = CastLike(i, x) y = Add(x, c)",
    ],
)
def test_constants_casts_and_attributes_follow(body: str) -> None:
    model = net("float16[1,2] x", "float16[1,2] y", body)
    feeds = {"x": normal(1, 2, dtype=np.float16)}
    assert_near(run(as_model(raised(model)), feeds), run(model, feeds), 2e-3)


def test_branches_and_outputs_that_others_read_follow() -> None:
    body = """k = Relu(x) z = Neg(k)
        y = If(c) <then_branch = t () => (float16[2] a) { a = Add(x, w) },
            else_branch = e () => (float16[2] b) { b = Mul(z, k) }>"""
    model = net("float16[2] x, bool c", "float16[2] y, float16[2] z", body, {"w": normal(2, dtype=np.float16)})
    graph = raised(model)
    for flag in (True, False):
        feeds = {"x": normal(2, dtype=np.float16), "c": np.array(flag)}
        assert_near(run(as_model(graph), feeds), run(model, feeds), 2e-3)


def test_quantized_halves_follow() -> None:
    weights = {"s": np.array(0.05, np.float16), "z": np.array(0, np.int8)}
    model = net(
        "float16[4] x", "float16[4] y", "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Neg(d)", weights
    )
    feeds = {"x": normal(4, dtype=np.float16)}
    # not what ONNX Runtime makes of the model itself: its version 1.23 does not round
    right = -weights["s"] * np.rint(feeds["x"] / weights["s"])
    assert_near(run(as_model(raised(model)), feeds), {"y": right}, 2e-3)


def test_a_scale_that_names_its_output_type_follows() -> None:
    weights = {"s": np.array(0.05, np.float16)}
    body = "q = QuantizeLinear<output_dtype = 3>(x, s) y = DequantizeLinear(q, s)"
    graph = raised(net("float16[4] x", "float16[4] y", body, weights, opset=21, ir_version=10))
    as_model(graph)
    assert graph.outputs[0].dtype == "float16"


def test_a_mixed_graph_loses_its_casts_with_the_passes_that_follow() -> None:
    weights = {"w": normal(4, 4, dtype=np.float16)}
    model = net("float[N,4] x", "float[N,4] y", "h = Cast<to = 10>(x) m = MatMul(h, w) y = Cast<to = 1>(m)", weights)
    graph = raised(model)
    run_passes(graph, [FoldConstants(), RemoveNoOps()])
    assert [n.op_type for n in graph.nodes()] == ["MatMul"]
    assert_near(run(as_model(graph), {"x": normal(2, 4)}), {"y": normal(2, 4) @ weights["w"].astype(np.float32)})


def test_a_float32_graph_is_left_alone() -> None:
    graph = as_graph(net("float[N,3] x, int64 i", "float[N,3] y", "y = Relu(x)"))
    before = as_model(graph).SerializeToString()
    assert RaiseToFloat32()(graph) == PassReport("raise to float32")
    assert as_model(graph).SerializeToString() == before
