"""MakeGemms: MatMul and the Add of its bias are one Gemm, which ONNX Runtime computes in integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import ranges_of, samples_for
from textnets import as_graph, as_model, assert_same, net, normal

from edgebig.graph import Graph
from edgebig.graph.passes import MakeGemms, NameNodes, PassReport, run_passes
from edgebig.graph.shapes import infer_shapes
from edgebig.quantize import insert_qdq, make_plan
from edgebig.recipe import Recipe
from edgebig.target import Target

WEIGHTS = {"w": normal(6, 4, seed=1), "b": normal(4, seed=2), "row": normal(1, 4, seed=3), "v": normal(4, 3, seed=4)}


def made(model: onnx.ModelProto) -> tuple[Graph, PassReport]:
    graph = as_graph(model)
    infer_shapes(graph)
    (report,) = run_passes(graph, [MakeGemms()])
    return graph, report


@pytest.mark.parametrize("body", ["p = MatMul(x, w) y = Add(p, b)", "p = MatMul(x, w) y = Add(b, p)"])
def test_a_product_and_its_bias_are_one(body: str) -> None:
    model = net("float[N,6] x", "float[N,4] y", body, WEIGHTS)
    graph, report = made(model)
    assert report.changed == ("1 MatMul and Add became Gemm",) and report.declined == ()
    assert [n.op_type for n in graph.nodes()] == ["Gemm"]
    assert_same(graph, model, {"x": normal(5, 6)})


def test_a_bias_of_one_row_becomes_a_vector_and_others_may_share_it() -> None:
    body = "p = MatMul(x, w) s = Add(p, row) q = MatMul(z, w) t = Add(row, q) y = Mul(s, t)"
    model = net("float[N,6] x, float[N,6] z", "float[N,4] y", body, WEIGHTS)
    graph, report = made(model)
    assert report.changed == ("2 MatMul and Add became Gemm",)
    gemms = [n for n in graph.nodes() if n.op_type == "Gemm"]
    assert [[str(v.name) for v in n.inputs][1] for n in gemms] == ["w", "w"]
    assert all(n.inputs[2] is not None and n.inputs[2].shape == (4,) for n in gemms)
    assert_same(graph, model, {"x": normal(3, 6), "z": normal(3, 6, seed=7)})


def test_the_layer_keeps_the_name_of_the_product() -> None:
    model = net("float[N,6] x", "float[N,4] y", "p = MatMul(x, w) y = Add(p, b)", WEIGHTS)
    model.graph.node[0].name = "/classifier/MatMul"
    graph, _ = made(model)
    assert [str(n.name) for n in graph.model.graph] == ["/classifier/MatMul"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("p = MatMul(x, w) s = Add(p, b) y = Mul(s, p)", "p stays a MatMul: its result is used without the bias too"),
        ("p = MatMul(x, w) y = Add(p, one)", "p stays a MatMul: what is added has the shape (1,), not (4,)"),
        ("p = MatMul(x, w) y = Add(p, whole)", "p stays a MatMul: what is added has the shape (2, 4), not (4,)"),
    ],
)
def test_what_it_declines(body: str, why: str) -> None:
    weights = WEIGHTS | {"one": normal(1), "whole": normal(2, 4)}
    model = net("float[2,6] x", "float[2,4] y", body, weights)
    graph, report = made(model)
    assert (report.changed, report.declined) == ((), (why,))
    assert "Gemm" not in [n.op_type for n in graph.nodes()]
    assert_same(graph, model, {"x": normal(2, 6)}, 0)


@pytest.mark.parametrize(
    ("inputs", "outputs", "body"),
    [
        ("float[N,5,6] x", "float[N,5,4] y", "p = MatMul(x, w) y = Add(p, b)"),
        ("float[N,6] x, float[6,4] z", "float[N,4] y", "p = MatMul(x, z) y = Add(p, b)"),
        ("float[N,6] x, float[4] z", "float[N,4] y", "p = MatMul(x, w) y = Add(p, z)"),
        ("float[N,6] x", "float[N,4] y", "p = MatMul(x, w) y = Relu(p)"),
    ],
    ids=["three axes", "computed weight", "computed bias", "no bias"],
)
def test_others_are_passed_over(inputs: str, outputs: str, body: str) -> None:
    _, report = made(net(inputs, outputs, body, WEIGHTS))
    assert (report.changed, report.declined) == ((), ())


@pytest.mark.parametrize("fuse", [True, False], ids=["made", "not made"])
def test_onnx_runtime_multiplies_integers_then(fuse: bool, tmp_path: Path) -> None:
    model = net(
        "float[N,6] x",
        "float[N,3] y",
        "p = MatMul(x, w) s = Add(p, b) t = Tanh(s) q = MatMul(t, v) y = Tanh(q)",
        WEIGHTS,
    )
    graph = as_graph(model)
    infer_shapes(graph)
    run_passes(graph, [*([MakeGemms()] if fuse else []), NameNodes()])
    exact = as_model(graph)
    insert_qdq(
        graph, make_plan(graph, ranges_of(graph, samples_for(graph, 8, batch=4)), Target.load("cpu"), Recipe(), "int8")
    )
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    session = ort.InferenceSession(as_model(graph).SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = {n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert operators & {"QGemm", "Gemm", "FusedGemm"} == ({"QGemm"} if fuse else {"FusedGemm"})
    x = {"x": normal(16, 6, seed=5)}
    expected = ort.InferenceSession(exact.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, x)[0]
    assert np.abs(session.run(None, x)[0] - expected).max() < 0.1
