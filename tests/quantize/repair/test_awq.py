"""AWQ's scales: the float graph computes the same, and the quantized one is nearer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nets import Array, attention_net, net, node, normal, run

from edgebig.graph import Executor, Graph
from edgebig.graph.passes import FoldConstants, NameNodes, RaiseOpset, RemoveNoOps, run_passes
from edgebig.graph.values import constant
from edgebig.quantize import insert_qdq, rules_weights
from edgebig.quantize.assignment import Assignment
from edgebig.quantize.formats import INT4, INT8
from edgebig.quantize.plan import ActivationChoice
from edgebig.quantize.repair.awq import awq
from edgebig.quantize.scales import weight_scales
from edgebig.source import export_huggingface

pytest.importorskip("torch")
pytest.importorskip("optimum.exporters.onnx")

from source import tiny_models


def plan_of(graph: Graph, block: int = 32):
    return rules_weights.make(graph, Assignment("int4"), block, INT4)


def skewed(graph: Graph, count: int, seed: int = 3) -> list[dict[str, Array]]:
    """Samples of which a few channels are far larger than the others, as in transformers."""
    random = np.random.default_rng(seed)
    shape = [d if isinstance(d, int) else 4 for d in graph.inputs[0].shape]
    wide = np.where(np.arange(shape[-1]) % 13 == 0, 20.0, 1.0)
    return [{"x": (random.standard_normal(shape) * wide).astype(np.float32)} for _ in range(count)]


def quantized_error(graph: Graph, plan, reference: Graph, samples: list[dict[str, Array]], scales=None) -> float:
    quantized = graph.clone()
    insert_qdq(quantized, plan, scales=scales)
    pairs = [(run(quantized, s)["y"], run(reference, s)["y"]) for s in samples]
    return float(sum(np.square(a - b).sum() for a, b in pairs))


def normed(*nodes, **weights: Array) -> Graph:
    """x 4x64 -> layer norm h -> nodes."""
    gain = {"gain": normal(64, seed=8) + 2, "offset": normal(64, seed=9)}
    return net(
        [node("LayerNormalization", "x gain offset", "h", axis=-1), *nodes],
        {"x": [4, 64]},
        ["y"],
        {**gain, **weights},
        opset=21,
    )


GATED = (
    node("MatMul", "h wu", "up"),
    node("Add", "up bias", "upb"),
    node("MatMul", "h wg", "gate"),
    node("Sigmoid", "gate", "s"),
    node("Mul", "gate s", "silu"),
    node("Mul", "silu upb", "mixed"),
    node("MatMul", "mixed wd", "y"),
)
GATED_WEIGHTS = {
    "wu": normal(64, 96, seed=1, scale=0.2) * np.where(np.arange(96) % 11 == 0, 12, 1).astype(np.float32),
    "bias": normal(96, seed=2),
    "wg": normal(64, 96, seed=3, scale=0.2),
    "wd": normal(96, 64, seed=4, scale=0.2),
}


def test_norm_and_gate_take_the_scales() -> None:
    graph = normed(*GATED, **GATED_WEIGHTS)
    reference, plan = graph.clone(), plan_of(graph)
    samples, fresh = skewed(graph, 16), skewed(graph, 8, seed=4)
    before = quantized_error(graph, plan, reference, fresh)
    report = awq(graph, plan, samples)
    assert report.declined == () and {s.layers for s in report.scaled} == {("up", "gate"), ("y",)}
    assert all(s.error <= 1 for s in report.scaled) and any(s.alpha > 0 for s in report.scaled)
    for sample in fresh:
        expected = run(reference, sample)["y"]
        assert np.abs(run(graph, sample)["y"] - expected).max() < 1e-5 * np.abs(expected).max()
    scaled = quantized_error(graph, plan, reference, fresh)
    assert scaled < 0.8 * before
    assert quantized_error(graph, plan, reference, fresh, report.scales) < 0.95 * scaled
    # the reference shares no constant that was changed
    np.testing.assert_array_equal(constant(reference.model.graph.initializers["wu"]).numpy(), GATED_WEIGHTS["wu"])


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ((node("MatMul", "h wa", "m"), node("Add", "m h", "y")), "m: h is read by Add too"),
        ((node("Sigmoid", "h", "s"), node("MatMul", "s wa", "y")), "y: s comes from Sigmoid"),
        ((node("MatMul", "x wa", "m"), node("Add", "m h", "y")), "m: x is read by LayerNormalization too"),
        (
            (node("Relu", "h", "r"), node("Add", "r h", "s"), node("MatMul", "s wa", "y")),
            "y: s combines two computed values",
        ),
    ],
)
def test_what_cannot_be_folded_is_declined(nodes, reason: str) -> None:
    graph = normed(*nodes, wa=normal(64, 64))
    before = graph.digest()
    report = awq(graph, plan_of(graph), skewed(graph, 4))
    assert report.declined == (reason,) and report.scaled == () and graph.digest() == before


@pytest.mark.parametrize(("block", "transposed"), [(32, False), (32, True), (None, False), (None, True)])
def test_clipped_scales_lose_less_of_each_column(block: int | None, transposed: bool) -> None:
    weight = normal(32, 96, seed=5) if transposed else normal(96, 32, seed=5)
    product = node("Gemm", "s w", "y", transB=1) if transposed else node("MatMul", "s w", "y")
    graph = net(
        [node("MatMul", "x mix", "m"), node("Sigmoid", "m", "s"), product],
        {"x": [64, 8]},
        ["y"],
        {"mix": normal(8, 96, seed=6), "w": weight},
        opset=21,
    )
    plan = rules_weights.make(graph, Assignment("int4", {"m": "float"}), block, INT4)
    samples = [{"x": normal(64, 8, seed=i)} for i in range(20)]
    report = awq(graph, plan, samples)
    assert len(report.declined) == 1 and set(report.scales) == {"y"}
    assert report.scales["y"].shape == weight_scales(weight, plan.weights[0]).shape
    errors = {}
    for name, scales in (("max", None), ("clipped", report.scales)):
        quantized = graph.clone()
        insert_qdq(quantized, plan, scales=scales)
        errors[name] = sum(np.square(run(quantized, s)["y"] - run(graph, s)["y"]).sum(axis=0) for s in samples)
    assert (errors["clipped"] <= errors["max"] * (1 + 1e-3)).all()
    assert errors["clipped"].sum() < 0.7 * errors["max"].sum()


def test_values_that_are_quantized_keep_their_ranges() -> None:
    graph = normed(*GATED, **GATED_WEIGHTS)
    plan = plan_of(graph)
    plan.activations |= {name: ActivationChoice(INT8, 0.1, 0) for name in ("h", "upb")}
    before = graph.digest()
    report = awq(graph, plan, skewed(graph, 4))
    assert report.declined == ("up, gate: h is quantized itself", "y: upb is quantized itself")
    assert graph.digest() == before


def test_a_projection_of_attention_without_heads_is_declined() -> None:
    graph = attention_net()
    samples = [{"x": normal(4, 4, 16, seed=i)} for i in range(4)]
    report = awq(graph, plan_of(graph), samples)
    assert [line.split(": ")[1] for line in report.declined] == [
        "x is read by Add too",
        "mixed multiplies two computed values",
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    def prepare(name: str, task: str | None) -> tuple[Graph, list[dict[str, Array]]]:
        folder: Path = tmp_path_factory.mktemp(name)
        source = export_huggingface(str(tiny_models.save(name, folder)), folder / "out", task, 21, 1e-3)
        graph = source.parts[0].graph
        run_passes(graph, [RaiseOpset(21), FoldConstants(), RemoveNoOps(), NameNodes()])
        return graph, [dict(s) for s in source.parts[0].examples]

    return prepare


@pytest.mark.parametrize(
    ("name", "task", "folded"),
    [("llama", "text-generation", ["q_proj", "gate_proj", "down_proj"]), ("bert", None, ["attention/output/dense"])],
)
def test_a_transformer_stays_what_it_is(prepared, name: str, task: str | None, folded: list[str]) -> None:
    graph, examples = prepared(name, task)
    reference, plan = graph.clone(), plan_of(graph, 16)
    with Executor(reference) as executor:
        expected = executor.run(examples[0])
    report = awq(graph, plan, examples)
    for part in folded:
        # both layers have it
        assert sum(part in layer and s.alpha > 0 for s in report.scaled for layer in s.layers) == 2, part
    with Executor(graph) as executor:
        found = executor.run(examples[0])
    for key, values in expected.items():
        assert np.abs(found[key] - values).max() <= 1e-5 * np.abs(values).max(), key
    if name == "llama":
        # keys and values are shared by two heads, and the cache hands them out
        assert sum("o_proj" in line for line in report.declined) == 2
