"""Recipes: those that ship, the forms of a field, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edgebig.errors import EdgebigError, RecipeError, UsageError
from edgebig.preprocess import Preprocess
from edgebig.recipe import Recipe, ShapeRange, parse_shapes, recipes
from edgebig.resources import data_folder

SHIPPED = {
    "detection-640",
    "fp16-gpu",
    "imagenet",
    "imagenet-caffe",
    "int8",
    "sentence-embedding",
    "silero-vad-16k",
    "twinlitenet",
    "ultraface",
}


def refused(tmp_path: Path, text: str) -> str:
    """The one line that a recipe of this text is refused with."""
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    message = str(caught.value)
    assert message.startswith("the recipe ") and "bad.yaml" in message and "\n" not in message
    assert caught.value.exit_code == 8
    return message


def test_every_shipped_recipe_loads_and_describes_itself() -> None:
    found = recipes()
    assert set(found) >= SHIPPED
    for name, recipe in found.items():
        assert recipe.name == name
        assert 20 < len(recipe.description) < 110 and "\n" not in recipe.description
        ready = (recipe.calibration.data or "").removeprefix("ready:")
        assert not ready or (data_folder("calibration") / f"{ready}.txt").is_file()


def test_the_shipped_recipes_say_what_their_models_need() -> None:
    assert Recipe.load("imagenet-caffe").preprocess == Preprocess(
        short_side=256, crop=(224, 224), colour="BGR", mean=(104.0, 117.0, 123.0)
    )
    assert Recipe.load("twinlitenet").preprocess == Preprocess(resize=(360, 640), scale=1 / 255)
    assert Recipe.load("ultraface").preprocess == Preprocess(resize=(240, 320), mean=(127.0,), std=(128.0,))
    voice = Recipe.load("silero-vad-16k")
    assert voice.freeze == {"sr": 16000}
    assert {k: v.max for k, v in voice.shapes.items()} == {"input": (1, 576), "state": (2, 1, 128)}
    sentences = Recipe.load("sentence-embedding")
    assert sentences.task == "feature-extraction"
    assert sentences.shapes["input_ids"] == ShapeRange(min=(1, 1), opt=(1, 32), max=(8, 256))
    assert (Recipe.load("fp16-gpu").precision, Recipe.load("int8").precision) == ("fp16", "int8")


def test_a_file_is_named_after_itself_and_has_short_forms(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(
        "shapes:\n"
        "  a: 1x3x8x8\n"
        "  b: [2, 4]\n"
        "  c: {min: 1x1, opt: [1, 16], max: 4x32}\n"
        "preprocess: {resize: [8, 9], layout: NHWC}\n"
        "keep_float: ['/head/*']\n"
    )
    recipe = Recipe.load(path)
    assert (recipe.name, recipe.precision, recipe.keep_float) == ("mine", "fp32", ("/head/*",))
    assert recipe.shapes["a"].is_static and recipe.shapes["a"].opt == (1, 3, 8, 8)
    assert recipe.shapes["b"] == ShapeRange(min=(2, 4), opt=(2, 4), max=(2, 4))
    assert not recipe.shapes["c"].is_static and recipe.shapes["c"].max == (4, 32)
    assert recipe.preprocess == Preprocess(resize=(8, 9), layout="NHWC")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("presicion: int8", "presicion: Extra inputs are not permitted"),
        ("precision: int7", "precision: Input should be 'fp32'"),
        ("opset: 9", "opset: Input should be greater than or equal to 13"),
        ("calibration: {samples: 0}", "calibration.samples: "),
        ("calibration: photos", "calibration: "),
        ("shapes: {x: 1x2x}", "shapes.x.min"),
        ("shapes: {x: {min: 1x4, opt: 1x2, max: 1x8}}", "min <= opt <= max"),
        ("shapes: {x: {min: 1x4, opt: 1x4, max: 4}}", "shapes.x"),
        ("shapes: {x: '0x4'}", "1 <= min"),
        ("preprocess: {resize: [8, 8], short_side: 8}", "resize or short_side, not both"),
        ("preprocess: {mean: [1, 2]}", "preprocess.mean needs 1 or 3 numbers, found 2"),
        ("preprocess: {std: [0]}", "preprocess.std holds a zero"),
        ("preprocess: {colour: blue}", "preprocess.colour"),
        ("freeze: {sr: fast}", "freeze.sr"),
        ("- a\n- list", "must hold one mapping of fields, found list"),
        ("", "must hold one mapping of fields, found NoneType"),
        ("precision: [int8", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_wrong_field_is_refused_in_one_line(tmp_path: Path, text: str, part: str) -> None:
    assert part in refused(tmp_path, text)


def test_unknown_names_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="^unknown recipe 'imagnet': the shipped ones are .*imagenet, imagenet-caffe"):
        Recipe.load("imagnet")
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*none\.yaml: No such file"):
        Recipe.load(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot read the recipe .*: Is a directory"):
        Recipe.load(f"{tmp_path}/")
    (tmp_path / "latin.yaml").write_bytes("description: Größe".encode("latin-1"))
    with pytest.raises(RecipeError, match="is not YAML"):
        Recipe.load(tmp_path / "latin.yaml")


def test_a_recipe_is_frozen_and_changes_into_another() -> None:
    recipe = Recipe.load("silero-vad-16k")
    with pytest.raises(ValidationError):
        recipe.precision = "int8"  # type: ignore[misc]
    changed = recipe.changed(precision="fp16", target="l4")
    assert (changed.precision, changed.target, changed.freeze) == ("fp16", "l4", {"sr": 16000})
    assert recipe.precision == "fp32" and changed.shapes == recipe.shapes
    assert Recipe.load("ultraface").changed(opset=18).preprocess == Recipe.load("ultraface").preprocess
    with pytest.raises(RecipeError, match="^the request: precision: "):
        recipe.changed(precision="fp7")


def test_shapes_are_written_as_trtexec_writes_them() -> None:
    assert parse_shapes("input:1x576, state:2x1x128") == {"input": (1, 576), "state": (2, 1, 128)}
    assert parse_shapes("model/x:0:7") == {"model/x:0": (7,)}
    assert parse_shapes("'Input:0':1x3x224x224 , b : 4") == {"Input:0": (1, 3, 224, 224), "b": (4,)}
    assert parse_shapes("rate:scalar,'x:1':,y:2") == {"rate": (), "x:1": (), "y": (2,)}
    for wrong in ("", "input", "input:1x", "input:ax2", ":1x2", "input:1x2,", "input:-1x2", "'a:1", "'':1", ":"):
        with pytest.raises(UsageError, match="shapes are written name:1x3x224x224") as caught:
            parse_shapes(wrong)
        assert isinstance(caught.value, EdgebigError) and caught.value.exit_code == 2
    with pytest.raises(UsageError, match="'a' is given twice in 'a:1,b:2,a:3'"):
        parse_shapes("a:1,b:2,a:3")
