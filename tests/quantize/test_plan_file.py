"""A plan on disk: the same plan comes of it again, and whatever is wrong in it is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import attention_net, conv_net, flat_ranges, net, node, normal, ranges_of, residual_net, samples_for

from edgebig.calibrate import Range, Ranges
from edgebig.errors import RecipeError
from edgebig.graph import Graph
from edgebig.quantize import Plan, insert_qdq, make_plan
from edgebig.quantize.formats import FP8, INT8, UINT8
from edgebig.quantize.plan import ActivationChoice
from edgebig.quantize.plan_file import PlanFile
from edgebig.recipe import Recipe
from edgebig.target import Target


def file_of(graph: Graph, plan: Plan, target: str = "cpu", **more: Any) -> PlanFile:
    return PlanFile.of(graph, plan, target, "int8", **more)


def written(data: Any, folder: Path) -> Path:
    path = folder / "p.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


GOLDEN = {
    "edgebig_plan": 1,
    "target": "cpu",
    "precision": "int8",
    "repairs": ["SmoothQuant: nothing"],
    "layers": [
        {
            "node": "conv1",
            "op": "Conv",
            "format": "int8",
            "weight": "per channel",
            "input": "x",
            "reason": "the rules of the target take it",
        },
        {
            "node": "conv2",
            "op": "Conv",
            "format": "float",
            "reason": "left in float by the search",
            "measured": {"drop_alone_int8": "Infinity", "seconds_saved": 0.25},
        },
        {
            "node": "y",
            "op": "Gemm",
            "format": "float",
            "reason": "kept in float by the recipe (y)",
        },
    ],
    "activations": {
        "x": {"format": "uint8", "scale": 0.007843138, "zero_point": 128},
        "relu": {"format": "uint8", "scale": 0.007843138, "zero_point": 128},
    },
}


def test_golden() -> None:
    graph = conv_net()
    reasons = {"conv2": "left in float by the search"}
    plan = make_plan(
        graph, flat_ranges(graph), Target.load("cpu"), Recipe(keep_float=("y",)), "int8", {"conv2": "float"}, reasons
    )
    measured = {"conv2": {"drop_alone_int8": math.inf, "seconds_saved": 0.25}}
    found = file_of(graph, plan, reasons=reasons, measured=measured, repairs=("SmoothQuant: nothing",))
    assert found.to_json() == GOLDEN
    assert list(found.to_json()) == list(GOLDEN)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = PlanFile.load(written(GOLDEN, tmp_path))
    assert found.to_json() == GOLDEN
    assert found.layers[1].measured == {"drop_alone_int8": math.inf, "seconds_saved": 0.25}
    assert found.formats() == {"conv1": "int8", "conv2": "float", "y": "float"}
    assert found.repairs == ("SmoothQuant: nothing",)


def test_a_reason_goes_with_the_format_that_it_explains(tmp_path: Path) -> None:
    data = json.loads(json.dumps(GOLDEN))
    data["layers"][0]["format"], data["layers"][1]["format"] = "float", "int8"
    assert PlanFile.load(written(data, tmp_path)).reasons() == {"y": "kept in float by the recipe (y)"}


NETS = {"conv": conv_net, "residual": residual_net, "attention": attention_net}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    ("target", "precision", "layers"),
    [
        ("cpu", "int8", {}),
        ("cpu", "int8", {"conv2": "float", "k": "float"}),
        ("l4", "int8", {}),
        ("l4", "fp8", {"conv1": "int8", "q": "int8", "k": "int8", "v": "int8"}),
        ("l4", "int8", {"v": "int8-weights", "conv1": "fp8"}),
    ],
)
def test_applied_to_the_same_graph_it_gives_the_same_graph(
    name: str, target: str, precision: str, layers: dict[str, str], tmp_path: Path
) -> None:
    graph, device = NETS[name](), Target.load(target)
    ranges = ranges_of(graph, samples_for(graph, 6))
    plan = make_plan(graph, ranges, device, Recipe(), precision, layers)
    file = tmp_path / "p.json"
    file.write_text(json.dumps(PlanFile.of(graph, plan, target, precision).to_json()), encoding="utf-8")
    read = PlanFile.load(file)
    again = make_plan(graph, read.ranges(), device, Recipe(), read.precision, read.formats(), read.reasons())
    assert again.weights == plan.weights and again.integer_biases == plan.integer_biases
    assert list(again.activations) == list(plan.activations)
    for tensor, choice in plan.activations.items():
        found = again.activations[tensor]
        assert (found.format, found.zero_point, found.readers) == (choice.format, choice.zero_point, choice.readers)
    assert PlanFile.of(graph, again, target, precision).to_json() == read.to_json()
    first, second = graph.clone(), graph.clone()
    insert_qdq(first, plan)
    insert_qdq(second, again)
    assert first.digest() == second.digest()


def test_weights_alone_beside_a_layer_that_reads_integers() -> None:
    graph = net(
        [node("MatMul", "x wa", "a"), node("MatMul", "x wb", "b"), node("Add", "a b", "y")],
        {"x": ["batch", 128]},
        ["y"],
        {"wa": normal(128, 64), "wb": normal(128, 64, seed=1)},
    )
    for fmt in ("int8-weights", "int4"):
        plan = make_plan(graph, flat_ranges(graph), Target.load("l4"), Recipe(), "int8", {"b": fmt})
        rows = file_of(graph, plan, "l4").layers
        assert [(r.node, r.format, r.input) for r in rows] == [("a", "int8", "x"), ("b", fmt, "")]


def test_an_embedding_is_a_layer() -> None:
    graph = net(
        [node("Gather", "table ids", "rows"), node("Relu", "rows", "y")],
        {"ids": [4]},
        ["y"],
        {"table": normal(512, 128)},
        types={"ids": "int64"},
    )
    device = Target.load("cpu")
    plan = make_plan(graph, flat_ranges(graph), device, Recipe(), "int8")
    found = file_of(graph, plan)
    assert [(r.node, r.op, r.format, r.weight) for r in found.layers] == [("rows", "Gather", "int8-weights", "per row")]
    again = make_plan(graph, found.ranges(), device, Recipe(), "int8", found.formats())
    assert again.embeddings == ["rows"]


@given(
    st.floats(min_value=-1e6, max_value=1e6, width=32),
    st.floats(min_value=-1e6, max_value=1e6, width=32),
    st.sampled_from([UINT8, INT8, FP8]),
)
def test_scales_and_zero_points_come_back_bit_for_bit(first: float, second: float, fmt: Any) -> None:
    low, high = min(first, second), max(first, second)
    scale, zero = fmt.scale_and_zero_point(Range(low, high))
    plan = Plan(activations={"x": ActivationChoice(fmt, scale, zero)})
    found = file_of(conv_net_once(), plan).ranges().by_tensor["x"]
    again, same_zero = fmt.scale_and_zero_point(found)
    assert (np.float32(again), same_zero) == (np.float32(scale), zero)


_CACHE: list[Graph] = []


def conv_net_once() -> Graph:
    if not _CACHE:
        _CACHE.append(conv_net())
    return _CACHE[0]


def changed(*path: Any, to: Any = None, drop: bool = False) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(GOLDEN))
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    if drop:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return data


WRONG: list[tuple[Any, str]] = [
    ("{", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ([], 'is not a plan of version 1 ("edgebig_plan"): take a bundle'),
    (changed("edgebig_plan", to=2), "is not a plan of version 1"),
    (changed("extra", to=1), "unknown field 'extra': it may hold"),
    (changed("target", drop=True), "target must be text, found None"),
    (changed("precision", to=8), "precision must be text, found 8"),
    (changed("precision", to=""), "precision is empty"),
    (changed("repairs", to="none"), "repairs must be a list, found 'none'"),
    (changed("repairs", to=[1]), "repairs[0] must be text, found 1"),
    (changed("layers", to={}), "layers must be a list"),
    (changed("layers", 0, to="conv1"), "layers[0] must be a mapping with the name of a node"),
    (changed("layers", 1, "node", drop=True), "layers[1] must be a mapping with the name of a node"),
    (changed("layers", 1, "format", to="int9"), "layers[1] (conv2): format must be one of int8, fp8, int4"),
    (changed("layers", 1, "format", to=["int8"]), "layers[1] (conv2): format must be one of"),
    (
        changed("layers", 1, "format", drop=True),
        "format must be one of int8, fp8, int4, int8-weights, nvfp4, mxfp8, float, found None",
    ),
    (changed("layers", 0, "scale", to=1), "layers[0] (conv1): unknown field 'scale'"),
    (changed("layers", 0, "reason", to=3), "layers[0] (conv1): reason must be text, found 3"),
    (changed("layers", 0, "weight", to=None), "layers[0] (conv1): weight must be text, found None"),
    (changed("layers", 0, "measured", to=[]), "layers[0] (conv1): measured must be a mapping"),
    (changed("layers", 0, "measured", to={"x": "much"}), "measured.x must be a number, found 'much'"),
    (changed("layers", 2, "node", to="conv1"), "names the layer 'conv1' twice"),
    (changed("activations", to=[]), "activations must be a mapping, found []"),
    (changed("activations", "x", to=1), "activations['x']: format must be one of uint8, int8, fp8 e4m3"),
    (changed("activations", "x", "format", to="int4"), "activations['x']: format must be one of"),
    (changed("activations", "x", "format", to=["int8"]), "activations['x']: format must be one of"),
    (changed("activations", "x", "scale", to=0), "activations['x']: scale must be a number from"),
    (changed("activations", "x", "scale", to=-1.0), "scale must be a number from 1.18e-38 to 1e+27, found -1.0"),
    (changed("activations", "x", "scale", to=True), "scale must be a number"),
    (changed("activations", "x", "scale", to=math.nan), "scale must be a number"),
    (changed("activations", "x", "scale", to=1e-40), "scale must be a number"),
    (changed("activations", "x", "scale", to=10**400), "scale must be a number"),
    (changed("activations", "x", "zero_point", to=256), "zero_point must be a whole number from 0 to 255 in uint8"),
    (changed("activations", "x", "zero_point", to=1.5), "zero_point must be a whole number"),
    (changed("activations", "x", "zero_point", to=True), "zero_point must be a whole number"),
    (changed("activations", "x", "format", to="int8"), "zero_point must be 0 in int8, found 128"),
    (changed("activations", "x", "offset", to=1), "activations['x']: unknown field 'offset'"),
]


@pytest.mark.parametrize(("data", "message"), WRONG, ids=[m[:40] for _, m in WRONG])
def test_every_wrong_field_is_named(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        PlanFile.load(written(data, tmp_path))
    text = str(error.value)
    assert message in text and str(tmp_path / "p.json") in text and "\n" not in text


def test_no_such_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read the plan .*none.json: No such file"):
        PlanFile.load(tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="is not JSON"):
        PlanFile.load(tmp_path / "b.json")


def test_an_edited_scale_is_taken(tmp_path: Path) -> None:
    read = PlanFile.load(written(changed("activations", "x", "scale", to=0.5), tmp_path))
    graph = conv_net()
    plan = make_plan(graph, read.ranges(), Target.load("cpu"), Recipe(), "int8", read.formats())
    assert (plan.activations["x"].scale, plan.activations["x"].zero_point) == (0.5, 128)
    assert isinstance(read.ranges(), Ranges)
