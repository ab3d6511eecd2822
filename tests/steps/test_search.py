"""``auto``, from a model to a bundle: what it leaves in float, why, and within which loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import Sample, net, node, normal, samples_for

import edgebig
from edgebig.bundle import Bundle
from edgebig.errors import UsageError
from edgebig.graph import Graph
from edgebig.recipe import Recipe
from edgebig.stages import Event

BUDGET = 0.002
PRODUCTS = ["a", "bad", "c", "d"]


def outlier_net() -> Graph:
    """x nx512 through four products; one input channel of ``bad`` is 3000 times as large as the others.

    Its weights there are small, so that float32 does not mind, and a scale for the whole tensor does.
    """
    spike, undo = np.ones(512, np.float32), np.ones((512, 1), np.float32)
    spike[7], undo[7] = 3000, 1 / 3000
    nodes = [
        node("MatMul", "x wa", "a"),
        node("Relu", "a", "ra"),
        node("Mul", "ra spike", "wide"),
        node("MatMul", "wide wb", "bad"),
        node("Relu", "bad", "rb"),
        node("MatMul", "rb wc", "c"),
        node("Relu", "c", "rc"),
        node("MatMul", "rc wd", "d"),
        node("Tanh", "d", "y"),
    ]
    weights = {n: normal(512, 512, seed=i, scale=0.06) for i, n in enumerate(("wa", "wb", "wc", "wd"))}
    return net(nodes, {"x": ["n", 512]}, ["y"], weights | {"wb": weights["wb"] * undo, "spike": spike})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "outlier.onnx"
    outlier_net().save(path)
    return path


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBIG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _quantized_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine would find it slower now and then, and auto then takes FP32; test_pays.py tests the timing."""
    monkeypatch.setattr("edgebig.steps.search.latencies", lambda graphs, sample: [2.0, 1.0])


def samples() -> list[Sample]:
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal((16, 512)).astype(np.float32)} for _ in range(40)]


def searched(model: Path, out: Path, target: str = "cpu", listener: Any = None, **fields: Any) -> Bundle:
    recipe = Recipe(**{"repair": (), "max_drop": BUDGET, "precision": "auto", "calibration": {"samples": 24}} | fields)
    return edgebig.compile(
        model, target=target, recipe=recipe, calibration=samples(), out=out, listener=listener or (lambda event: None)
    )


def said(bundle: Bundle) -> tuple[str, str]:
    (stage,) = (s for s in bundle.manifest.stages if s.name == "quantize")
    return "\n".join(stage.notes), "\n".join(stage.declined)


def plan_of(bundle: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bundle.file("evidence/model.plan.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("target", ["cpu", "l4"])
def test_the_layer_with_the_outlier_stays_float(model: Path, target: str, tmp_path: Path) -> None:
    if target == "l4":
        pytest.importorskip("tensorrt_rtx_bindings")
    fields = {"shapes": {"x": "16x512"}} if target == "l4" else {}
    bundle = searched(model, tmp_path / "b", target, **fields)
    plan, (notes, declined) = plan_of(bundle), said(bundle)
    rows = {row["node"]: row for row in plan["layers"]}
    assert list(rows) == PRODUCTS
    formats = {n: row["format"] for n, row in rows.items()}
    allowed = {"int8"} if target == "cpu" else {"int8", "fp8"}
    assert {formats[n] for n in ("a", "c", "d")} <= allowed
    if target == "cpu":  # FP8 holds the small values beside the large one
        assert formats["bad"] == "float"
        assert rows["bad"]["reason"].startswith(
            "left in float by the search: alone it loses 1 on average, 0.002 are allowed"
        )
        assert rows["bad"]["measured"]["drop_alone_int8"] > BUDGET
        assert f"bad: {rows['bad']['reason']}" in declined
        assert "auto quantizes 3 of 4 groups of layers" in notes
    assert rows["a"]["reason"] == "within the loss of 0.002 that is allowed"
    assert 0 < rows["a"]["measured"]["seconds_saved"] < 1
    if target == "cpu":
        assert 1 - bundle.part().similarity["y"]["cosine"] <= BUDGET
        assert bundle.part().precision["int8"] >= 3 * 512 * 512


def test_where_everything_fits_there_is_nothing_to_search(model: Path, tmp_path: Path) -> None:
    bundle = searched(model, tmp_path / "b", max_drop=1.5)
    notes, _ = said(bundle)
    assert "auto measured 1 plans and 0 of 4 groups alone" in notes
    assert "auto quantizes 4 of 4 groups of layers" in notes
    assert all(row["format"] == "int8" for row in plan_of(bundle)["layers"])


def test_smoothing_mends_it_without_a_search(model: Path, tmp_path: Path) -> None:
    bundle = searched(model, tmp_path / "b", repair=("smooth",))
    notes, _ = said(bundle)
    assert "auto quantizes 4 of 4 groups of layers" in notes
    assert plan_of(bundle)["repairs"] and 1 - bundle.part().similarity["y"]["cosine"] <= BUDGET


def test_a_loss_of_nothing_leaves_float32(model: Path, tmp_path: Path) -> None:
    bundle = searched(model, tmp_path / "b", max_drop=0.0)
    notes, declined = said(bundle)
    assert "auto: no layer can be quantized within a loss of 0" in declined and "auto took fp32" in notes
    assert not bundle.part().quantized and bundle.part().similarity["y"]["max_relative"] < 1e-5


def test_without_calibration_data_float32_is_within_any_loss(model: Path, tmp_path: Path) -> None:
    recipe = Recipe(precision="auto", max_drop=0.0, shapes={"x": "4x512"})
    bundle = edgebig.compile(model, recipe=recipe, out=tmp_path / "b")
    notes, declined = said(bundle)
    assert "auto: int8 was not tried: it needs --calib" in declined and "auto took fp32" in notes
    assert not bundle.part().quantized


def test_the_time_ends_the_search(model: Path, tmp_path: Path) -> None:
    bundle = searched(model, tmp_path / "b", search_minutes=1e-6)
    notes, declined = said(bundle)
    assert "auto: --search-minutes 1e-06 were over: the best plan so far was taken" in declined
    assert "auto measured 1 plans and 0 of 4 groups alone" in notes
    assert not bundle.part().quantized


class Heard:
    """The groups that are measured; it interrupts before the third."""

    def __init__(self, interrupts: bool) -> None:
        self.interrupts = interrupts
        self.alone: list[str] = []

    def __call__(self, event: Event) -> None:
        if event.kind == "progress" and " alone in " in event.text:
            self.alone.append(event.text.split(" alone in ")[0])
            if self.interrupts and len(self.alone) == 3:
                raise KeyboardInterrupt


def test_an_interrupted_search_goes_on_where_it_was(model: Path, tmp_path: Path) -> None:
    first, second, third = Heard(True), Heard(False), Heard(False)
    with pytest.raises(KeyboardInterrupt):
        searched(model, tmp_path / "b", listener=first)
    assert not (tmp_path / "b").exists() and first.alone == ["a", "bad", "c"]
    bundle = searched(model, tmp_path / "b", listener=second)
    assert second.alone == ["c", "d"]
    again = searched(model, tmp_path / "again", listener=third)
    assert third.alone == []
    assert [r["format"] for r in plan_of(again)["layers"]] == [r["format"] for r in plan_of(bundle)["layers"]]
    # another budget asks for the same losses, other ranges do not
    other = Heard(False)
    searched(model, tmp_path / "c", listener=other, max_drop=BUDGET / 2)
    assert other.alone == []
    searched(model, tmp_path / "d", listener=other, calibration={"methods": ["average-min-max"]})
    assert other.alone == PRODUCTS


def test_a_damaged_cache_is_measured_anew(model: Path, tmp_path: Path) -> None:
    searched(model, tmp_path / "b")
    (kept,) = (tmp_path / "cache" / "search").glob("*.json")
    kept.write_text("[1,")
    heard = Heard(False)
    searched(model, tmp_path / "c", listener=heard)
    assert heard.alone == PRODUCTS and json.loads(kept.read_text()).keys() == set(PRODUCTS)


def test_layers_kept_by_name_are_no_matter_of_the_search(model: Path, tmp_path: Path) -> None:
    bundle = searched(model, tmp_path / "b", keep_float=("bad",))
    notes, _ = said(bundle)
    assert "auto quantizes 3 of 3 groups of layers" in notes
    rows = {row["node"]: row for row in plan_of(bundle)["layers"]}
    assert (rows["bad"]["format"], rows["bad"]["reason"]) == ("float", "kept in float by the recipe (bad)")


def test_of_several_methods_auto_takes_the_one_that_loses_least(tmp_path: Path) -> None:
    graph = net(
        [node("MatMul", "x wa", "a"), node("Relu", "a", "ra"), node("MatMul", "ra wb", "b"), node("Tanh", "b", "y")],
        {"x": ["batch", 512]},
        ["y"],
        {"wa": normal(512, 64) / 20, "wb": normal(64, 8) / 8},
    )
    path = tmp_path / "net.onnx"
    graph.save(path)
    samples = samples_for(graph, 96, batch=1)
    # one value far beyond the others: a range that holds it leaves few steps for them
    samples[-1]["x"][0, 0] = 300
    names = ("min-max", "percentile", "mse")
    recipe = Recipe(precision="auto", max_drop=0.5, repair=()).with_calibration({"methods": names})
    bundle = edgebig.compile(path, recipe=recipe, target="l4", calibration=samples, out=tmp_path / "b")
    (line,) = (n for s in bundle.manifest.stages for n in s.notes if "ranges; every layer in" in n)
    losses = {name: float(line.split(f"{name} ")[-1].split(",")[0]) for name in names}
    taken = line.split("auto took ")[1].split(" ranges")[0]
    assert losses[taken] == min(losses.values()) and len(set(losses.values())) > 1
    ranges = json.loads((bundle.path / "calibration" / "model.ranges.json").read_text(encoding="utf-8"))
    assert ranges["method"] == taken


def test_as_accurate_as_a_speed_allows(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is made up: a second in float, of which each INT8 product saves a fifth; the losses are real."""

    def speed(plain: Graph, quantized: Graph, sample: Sample, seconds: float) -> float:
        # a quantized weight has a DequantizeLinear with an axis
        products = sum(n.op_type == "DequantizeLinear" and "axis" in n.attributes for n in quantized.model.graph)
        return 1 / (1 - 0.2 * products)

    monkeypatch.setattr("edgebig.steps.search.speedup", speed)
    bundle = searched(model, tmp_path / "b", max_drop=None, min_speedup=2.4)
    rows = {row["node"]: row for row in plan_of(bundle)["layers"]}
    assert {n: row["format"] for n, row in rows.items()} == {"a": "int8", "bad": "float", "c": "int8", "d": "int8"}
    assert rows["bad"]["measured"]["drop_added"] > 0.1 > rows["a"]["measured"]["drop_added"] > 0
    assert rows["bad"]["reason"].endswith("and the speed allows it")
    assert rows["a"]["reason"] == "quantized for the 2.4 times float32's speed that was asked"
    none = searched(model, tmp_path / "c", max_drop=None, min_speedup=9.0)
    assert "auto: --min-speedup 9 was not reached with every layer in INT8, which was taken" in said(none)[1]
    assert {row["format"] for row in plan_of(none)["layers"]} == {"int8"}
    # with a loss beside it, what loses more is not taken
    both = searched(model, tmp_path / "d", min_speedup=4.0)
    assert "the plan loses" in said(both)[1] and not both.part().quantized


@pytest.mark.parametrize(
    ("target", "fields", "words"),
    [
        ("l4", {}, "--min-speedup is measured, which l4 cannot be here"),
        ("cpu", {"precision": "int8"}, "--min-speedup is for --precision auto, not for int8"),
    ],
)
def test_a_speed_is_for_auto_on_a_cpu(
    model: Path, target: str, fields: dict[str, str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        searched(model, tmp_path / "b", target, min_speedup=2.0, **fields)
