"""``--plan``: a bundle's own plan makes the same graph again, an edited one exactly what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import Graph, conv_net, net, node, normal, samples_for

import edgebig
from edgebig.bundle import Bundle
from edgebig.errors import CalibrationError, EdgebigError, RecipeError
from edgebig.recipe import Recipe
from edgebig.request import Request, Shapes
from edgebig.source import SourcePart
from edgebig.steps.plans import plan_of, with_plan
from edgebig.steps.work import PartWork


def compiled(model: Path, out: Path, target: str = "cpu", data: Any = None, **fields: Any) -> Bundle:
    recipe = Recipe(**{"repair": (), **fields})
    return edgebig.compile(model, target=target, recipe=recipe, calibration=data, out=out)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "conv.onnx"
    conv_net().save(path)
    return path


@pytest.fixture(scope="module")
def bundles(model: Path) -> dict[str, Bundle]:
    """A bundle for each target, quantized with data and without repairs."""
    data = samples_for(conv_net(), 24)
    return {t: compiled(model, model.parent / t, t, data, precision="int8") for t in ("cpu", "agx-orin-64gb")}


def plan_file(bundle: Bundle) -> Path:
    return bundle.file("evidence/model.plan.json")


def edited(bundle: Bundle, out: Path, **formats: str) -> Path:
    data = json.loads(plan_file(bundle).read_text(encoding="utf-8"))
    for row in data["layers"]:
        row["format"] = formats.get(row["node"], row["format"])
    out.write_text(json.dumps(data), encoding="utf-8")
    return out


@pytest.mark.parametrize("target", ["cpu", "agx-orin-64gb"])
def test_a_bundles_own_plan_makes_the_same_graph_without_data(
    bundles: dict[str, Bundle], target: str, model: Path, tmp_path: Path
) -> None:
    bundle = bundles[target]
    again = compiled(model, tmp_path / "b", target, plan=str(plan_file(bundle)))
    assert again.manifest.files["graphs/model.onnx"] == bundle.manifest.files["graphs/model.onnx"]
    assert again.manifest.precision == "int8" and again.part().quantized
    assert json.loads(plan_file(again).read_text()) == json.loads(plan_file(bundle).read_text())


def test_data_given_beside_a_plan_repairs_nothing_that_it_does_not_name(
    bundles: dict[str, Bundle], model: Path, tmp_path: Path
) -> None:
    bundle = bundles["cpu"]
    other = samples_for(conv_net(), 24, seed=9)
    again = edgebig.compile(
        model, target="cpu", recipe=Recipe(plan=str(plan_file(bundle))), calibration=other, out=tmp_path / "b"
    )
    assert again.manifest.files["graphs/model.onnx"] == bundle.manifest.files["graphs/model.onnx"]


def test_one_layer_edited_to_float_and_no_other(bundles: dict[str, Bundle], model: Path, tmp_path: Path) -> None:
    plan = edited(bundles["agx-orin-64gb"], tmp_path / "p.json", conv2="float")
    bundle = compiled(model, tmp_path / "b", "agx-orin-64gb", plan=str(plan))
    rows = {r["node"]: r for r in json.loads(plan_file(bundle).read_text())["layers"]}
    assert {n: r["format"] for n, r in rows.items()} == {"conv1": "int8", "conv2": "float", "y": "int8"}
    assert rows["conv2"]["reason"] == "kept in float by the plan"
    graph = Graph.load(bundle.file("graphs/model.onnx"))
    nodes = {str(n.name): n for n in graph.model.graph}

    def reads_integers(name: str) -> bool:
        producers = [v.producer() for v in nodes[name].inputs[:2] if v is not None]
        return all(p is not None and p.op_type == "DequantizeLinear" for p in producers)

    assert [reads_integers(n) for n in ("conv1", "conv2", "y")] == [True, False, True]


def test_an_edited_scale_is_in_the_graph(bundles: dict[str, Bundle], model: Path, tmp_path: Path) -> None:
    data = json.loads(plan_file(bundles["agx-orin-64gb"]).read_text())
    data["activations"]["x"]["scale"] = 0.125
    (tmp_path / "p.json").write_text(json.dumps(data))
    bundle = compiled(model, tmp_path / "b", "agx-orin-64gb", plan=str(tmp_path / "p.json"))
    graph = Graph.load(bundle.file("graphs/model.onnx"))
    scales = {n.inputs[0].name: n.inputs[1].const_value for n in graph.model.graph if n.op_type == "QuantizeLinear"}
    (found,) = [t for n, t in scales.items() if str(n).startswith("x")]
    assert float(np.asarray(found.numpy(), np.float32)) == 0.125


def cases(bundle: Bundle, folder: Path) -> dict[str, tuple[type[EdgebigError], str, dict[str, Any]]]:
    own, data = plan_file(bundle), json.loads(plan_file(bundle).read_text())

    def written(name: str, **fields: Any) -> str:
        (folder / name).write_text(json.dumps(data | fields))
        return str(folder / name)

    strange = [*data["layers"], {"node": "conv9", "format": "int8"}]
    (folder / "empty").mkdir()
    tensors = data["activations"] | {"nowhere": data["activations"]["x"]}
    return {
        "target": (RecipeError, "is for cpu, and the target is l4: what may be quantized", {"plan": own, "to": "l4"}),
        "layer": (RecipeError, "names the layer 'conv9', which model lacks", {"plan": written("1", layers=strange)}),
        "tensor": (RecipeError, "names the tensor 'nowhere'", {"plan": written("2", activations=tensors)}),
        "precision": (RecipeError, "is for int8, and fp16 was asked for", {"plan": own, "precision": "fp16"}),
        "auto": (RecipeError, "is for int8, and auto was asked for", {"plan": own, "precision": "auto"}),
        "unknown": (RecipeError, "precision: Input should be", {"plan": written("3", precision="int9")}),
        "repaired": (
            CalibrationError,
            "is for a graph that was repaired first (SmoothQuant): give --calib",
            {"plan": written("4", repairs=["SmoothQuant"])},
        ),
        "none": (RecipeError, "cannot read the plan", {"plan": folder / "none.json"}),
        "empty": (RecipeError, "holds no plan: give a file, or a folder", {"plan": folder / "empty"}),
    }


@pytest.mark.parametrize(
    "case", ["target", "layer", "tensor", "precision", "auto", "unknown", "repaired", "none", "empty"]
)
def test_a_plan_that_does_not_fit(case: str, bundles: dict[str, Bundle], model: Path, tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    kind, message, asked = cases(bundles["cpu"], tmp_path / "plans")[case]
    recipe = Recipe(plan=str(asked["plan"]))
    with pytest.raises(EdgebigError) as error:
        edgebig.compile(
            model,
            target=asked.get("to", "cpu"),
            recipe=recipe,
            precision=asked.get("precision"),
            out=tmp_path / "b",
        )
    assert type(error.value) is kind and message in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plans"]


def test_a_folder_holds_a_plan_for_each_part(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    """As a model of several graphs needs: each part takes its own file."""
    folder = tmp_path / "plans"
    folder.mkdir()
    for name in ("decoder", "encoder"):
        shutil.copy(plan_file(bundles["cpu"]), folder / f"{name}.plan.json")
    edited(bundles["cpu"], folder / "encoder.plan.json", conv1="float")
    asked = Request.resolve(Recipe(plan=str(folder)), "cpu", None, Shapes(), {})
    request = with_plan(asked)
    assert request.recipe.precision == "int8" and request.recipe.repair == ()
    graph = conv_net()
    found = {}
    for name in ("decoder", "encoder"):
        plan = plan_of(PartWork(SourcePart(name, graph, Path("m.onnx")), graph, {}), request)
        assert plan is not None
        found[name] = plan.formats()["conv1"]
    assert found == {"decoder": "int8", "encoder": "float"}
    with pytest.raises(RecipeError, match="cannot read the plan .*third.plan.json"):
        plan_of(PartWork(SourcePart("third", graph, Path("m.onnx")), graph, {}), request)


@pytest.mark.parametrize(
    ("target", "fmt", "stored", "opset"),
    [("agx-orin-64gb", "int4", "int4", 21), ("rtx-5090", "nvfp4", "float4e2m1", 23)],
)
def test_a_layer_edited_to_blocks_raises_the_opset(
    target: str, fmt: str, stored: str, opset: int, tmp_path: Path
) -> None:
    graph = net(
        [node("MatMul", "x wa", "a"), node("Relu", "a", "r"), node("MatMul", "r wb", "y")],
        {"x": ["n", 128]},
        ["y"],
        {"wa": normal(128, 128, scale=0.1), "wb": normal(128, 64, seed=1, scale=0.1)},
    )
    graph.save(tmp_path / "m.onnx")
    first = compiled(tmp_path / "m.onnx", tmp_path / "a", target, samples_for(graph, 24), precision="int8")
    plan = edited(first, tmp_path / "p.json", y=fmt)
    bundle = compiled(tmp_path / "m.onnx", tmp_path / "b", target, plan=str(plan))
    assert (first.part().opset, bundle.part().opset) == (19, opset)
    assert bundle.part().precision[stored] >= 128 * 64 and bundle.part().precision["int8"] >= 128 * 128
