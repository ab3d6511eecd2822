"""SmoothQuant: the same outputs, less loss where channels are far apart, and nothing where it does not help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from nets import Array, Sample, attention_net, net, node, normal, op_types, ranges_of, run, samples_for

from edgebig.graph import Executor, Graph
from edgebig.quantize import insert_qdq, layer_formats, make_plan, planned_layers
from edgebig.quantize.formats import FP8, INT8, UINT8
from edgebig.quantize.repair.smooth import smooth
from edgebig.recipe import Recipe
from edgebig.request import Request, Shapes
from edgebig.stages import StageNotes
from edgebig.steps import prepare_graph
from edgebig.steps.work import PartWork
from edgebig.target import Target
from edgebig.verify import made_inputs

TASKS = {"bert": "text-classification", "llama": "text-generation"}
OUTLIERS = np.array([1.0] * 29 + [40.0, 60.0, 25.0], np.float32)


def normed(gain: Array = OUTLIERS, *, read_twice: bool = False, **gemm: int) -> Graph:
    """x nx32 -> LayerNorm with a few large channels -> MatMul and Gemm, added; the norm read again or not."""
    nodes = [
        node("LayerNormalization", "x gain offset", "n"),
        node("MatMul", "n wa", "a"),
        node("Gemm", "n wb bb", "b", **gemm),
        node("Add", "a b", "s"),
        node("MatMul", "s wc", "c"),
        node("Slice", "n zero end last", "cut"),
        node("Add", "c cut", "y") if read_twice else node("Relu", "c", "y"),
    ]
    if not read_twice:
        del nodes[5]
    return net(
        nodes,
        {"x": ["n", 32]},
        ["y"],
        {
            "gain": gain,
            "offset": normal(32, seed=9, scale=0.1),
            "wa": normal(32, 48, seed=1, scale=0.2),
            "wb": normal(*((48, 32) if gemm.get("transB") else (32, 48)), seed=2, scale=0.2),
            "bb": normal(48, seed=3),
            "wc": normal(48, 16, seed=4, scale=0.2),
        }
        | ({"zero": np.array([0]), "end": np.array([16]), "last": np.array([-1])} if read_twice else {}),
    )


def outputs(graph: Graph, samples: list[Sample]) -> Array:
    return np.concatenate([run(graph, s)["y"] for s in samples])


def quantized(graph: Graph, samples: list[Sample], target: str = "cpu") -> Graph:
    made = graph.clone()
    insert_qdq(made, make_plan(made, ranges_of(made, samples), Target.load(target), Recipe(), "int8"))
    return made


@pytest.mark.parametrize("gemm", [{}, {"transB": 1}], ids=["as it is", "transposed"])
@pytest.mark.parametrize("read_twice", [False, True], ids=["folded", "multiplied"])
def test_outputs_stay_and_the_loss_shrinks(read_twice: bool, gemm: dict[str, int]) -> None:
    graph = normed(read_twice=read_twice, **gemm)
    samples, unseen = samples_for(graph, 48, batch=8), samples_for(graph, 16, seed=5, batch=4)
    before, exact = graph.clone(), outputs(graph, unseen)
    done = smooth(graph, ["a", "b"], samples, UINT8, INT8)
    (one,) = done
    assert (one.tensor, one.layers, one.folded) == ("n", ("a", "b"), not read_twice)
    assert one.error[1] < 0.5 * one.error[0] and 0.5 <= one.alpha <= 0.9
    found = outputs(graph, unseen)
    assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()
    assert op_types(graph).count("Mul") == int(read_twice)

    def loss(made: Graph) -> float:
        noise = np.square(outputs(quantized(made, samples), unseen) - exact).sum(axis=1)
        return float((noise / np.square(exact).sum(axis=1)).mean())

    assert loss(graph) < 0.6 * loss(before)
    gemm_node = next(n for n in graph.model.graph if n.op_type == "Gemm")
    assert gemm_node.attributes.get_int("transB", 0) == gemm.get("transB", 0)


def test_a_fold_gives_the_tensor_another_name_and_touches_no_shared_constant() -> None:
    graph = normed()
    samples = samples_for(graph, 16, batch=4)
    smooth(graph, ["a", "b"], samples, UINT8, INT8)
    (norm,) = (n for n in graph.model.graph if n.op_type == "LayerNormalization")
    assert str(norm.outputs[0].name) == "n/smoothed"
    plan = make_plan(graph, ranges_of(graph, samples), Target.load("cpu"), Recipe(), "int8")
    assert set(plan.activations) == {"n/smoothed"}


def test_what_does_not_gain_is_left_alone() -> None:
    graph = normed(np.ones(32, np.float32))
    before = graph.digest()
    assert smooth(graph, ["a", "b"], samples_for(graph, 24, batch=4), UINT8, INT8) == []
    assert graph.digest() == before


def test_layers_that_are_not_quantized_are_left_alone() -> None:
    graph = normed()
    before, samples = graph.digest(), samples_for(graph, 8, batch=4)
    assert smooth(graph, [], samples, UINT8, INT8) == []
    assert smooth(graph, ["s", "y"], samples, UINT8, INT8) == []
    assert smooth(graph, ["a"], [], UINT8, INT8) == []
    assert graph.digest() == before
    # b reads the same tensor in float: it gets the unsmoothed one
    (one,) = smooth(graph, ["a"], samples, UINT8, INT8)
    assert one.layers == ("a",) and not one.folded
    nodes = {str(n.name): n for n in graph.model.graph}
    assert [str(nodes[n].inputs[0].name) for n in "ab"] == ["n/smoothed", "n"]


def test_products_of_two_computed_values_are_left_alone() -> None:
    graph = attention_net()
    layers = [str(n.name) for n in graph.model.graph if n.op_type == "MatMul"]
    samples = samples_for(graph, 16)
    exact = outputs(graph, samples)
    for found in smooth(graph, layers, samples, INT8, INT8):
        assert not {"qk", "mixed"} & set(found.layers)
    assert np.abs(outputs(graph, samples) - exact).max() <= 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize(("activation", "weight"), [(UINT8, INT8), (INT8, INT8), (FP8, FP8)])
def test_the_strength_depends_on_the_data_alone(activation: Any, weight: Any) -> None:
    first, second = normed(), normed()
    samples = samples_for(first, 24, batch=4)
    one = smooth(first, ["a", "b", "c"], samples, activation, weight)
    two = smooth(second, ["a", "b", "c"], iter(samples), activation, weight)
    assert one == two and first.digest() == second.digest()
    if activation is not FP8:  # whose own steps follow each channel's size
        assert one


def test_a_model_input_gets_a_multiplication_before_everything() -> None:
    graph = net([node("MatMul", "x w", "m"), node("Relu", "m", "y")], {"x": ["n", 32]}, ["y"], {"w": normal(32, 16)})
    samples = [{"x": s["x"] * OUTLIERS} for s in samples_for(graph, 16, batch=4)]
    exact = outputs(graph, samples)
    (one,) = smooth(graph, ["m"], samples, INT8, INT8)
    assert (one.tensor, one.folded) == ("x", False) and op_types(graph) == ["Mul", "MatMul", "Relu"]
    assert np.abs(outputs(graph, samples) - exact).max() <= 1e-5 * np.abs(exact).max()
    assert [s.name for s in graph.inputs] == ["x"]


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_exported_models_stay_what_they_are(name: str, tmp_path: Path) -> None:
    part = exported(name, tmp_path)
    graph, target = part.graph, Target.load("l4")
    _spread(graph)
    samples = made_inputs(graph, {name: profile.opt for name, profile in part.profiles.items()}, 12)
    with Executor(graph, "off") as executor:
        exact = [executor.run(s) for s in samples]
    done = smooth(graph, planned_layers(graph, target, Recipe(), "int8"), samples, *layer_formats(target, "int8"))
    assert len(done) >= 3 and sum(s.folded for s in done) >= 1
    assert all(s.error[1] < 0.9 * s.error[0] for s in done)
    with Executor(graph, "off") as executor:
        for sample, expected in zip(samples, exact, strict=True):
            for key, found in executor.run(sample).items():
                assert np.abs(found - expected[key]).max() <= 2e-5 * np.abs(expected[key]).max(), key


def exported(name: str, folder: Path) -> PartWork:
    """The model's graph, simplified as a compile does."""
    pytest.importorskip("optimum")
    from source import tiny_models

    from edgebig.source import export_huggingface

    source = export_huggingface(str(tiny_models.save(name, folder)), folder / "out", TASKS[name], 19, 1e-3)
    request = Request.resolve(None, "l4", None, Shapes(), {"opset": 19})
    return prepare_graph(source.parts[0], source, request, StageNotes("graph", lambda event: None))


def _spread(graph: Graph) -> None:
    """Random weights have no outliers: three channels of each norm's gain become 30 times as large."""
    for value in list(graph.model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tuple(tensor.shape.numpy()) == (32,) and (tensor.numpy() == 1).all():
            gain = np.ones(32, np.float32)
            gain[[3, 11, 25]] = 30
            value.const_value = ir.tensor(gain, name=value.name)
