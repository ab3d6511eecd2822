"""Recipe, options and target joined into one request."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pydantic")

from edgebig.errors import RecipeError, TargetError, UsageError
from edgebig.recipe import BuildRecipe, Recipe, ShapeRange
from edgebig.request import Request, Shapes
from edgebig.target import Target


def resolve(recipe=None, target=None, data=None, shapes: Shapes | None = None, **overrides) -> Request:
    return Request.resolve(recipe, target, data, shapes or Shapes(), overrides)


def test_nothing_asked_is_fp32_for_this_cpu() -> None:
    request = resolve()
    assert (request.recipe, request.target.name, request.data) == (Recipe(), "cpu", None)
    assert request.insisted == frozenset()


def test_options_win_over_the_recipe_and_none_leaves_a_field() -> None:
    recipe = Recipe(precision="int8", target="l4", freeze={"sr": 16000, "n": 1}, task="x", golden=2)
    request = resolve(recipe, precision=None, freeze={"n": 2}, keep_original=True, task=None)
    assert request.target.name == "l4" and request.recipe.precision == "int8" and request.recipe.task == "x"
    assert request.recipe.freeze == {"sr": 16000, "n": 2} and request.recipe.keep_original
    assert request.insisted == {"n"}
    assert resolve(recipe, "a100", precision="fp16").target.name == "a100"
    assert resolve(recipe, precision="fp16").recipe == recipe.changed(precision="fp16")
    assert recipe.freeze == {"sr": 16000, "n": 1}  # the recipe itself is as it was


def test_options_of_the_builder_join_the_recipes() -> None:
    recipe = Recipe(build=BuildRecipe(workspace=1 << 30, refit=True))
    expected = BuildRecipe(workspace=1 << 30, refit=False, aux_streams=0)
    for asked in ({"refit": False, "aux_streams": 0}, BuildRecipe(refit=False, aux_streams=0)):
        assert resolve(recipe, "l4", build=asked).recipe.build == expected
    assert resolve(recipe, "l4", build={"workspace": None}).recipe.build == BuildRecipe(refit=True)
    for nothing in (None, {}, BuildRecipe()):
        assert resolve(recipe, "l4", build=nothing).recipe == recipe
    assert resolve(build={"workspace": "2G"}).recipe.build.workspace == 2 << 30


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"optimization_level": 6}, "the request: build.optimization_level: .* less than or equal to 5, found 6"),
        ({"workspace": "two"}, "the request: build.workspace: .* is written 2G, 512M"),
        ({"opt_level": 5}, "the request: build.opt_level: Extra inputs are not permitted, found 5"),
        (["refit"], r"the request: build: .* valid dictionary or instance of BuildRecipe, found \['refit'\]"),
    ],
)
def test_a_wrong_option_of_the_builder_is_named(asked: object, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        resolve(build=asked)


def test_recipes_and_targets_by_name_file_or_themselves(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("precision: int8\ntarget: t4\ncalibration: {data: photos, samples: 7}\n")
    request = resolve(tmp_path / "mine.yaml")
    assert (request.recipe.name, request.target.name, request.data) == ("mine", "t4", "photos")
    assert resolve(str(tmp_path / "mine.yaml"), data="other").data == "other"
    assert resolve("silero-vad-16k").recipe.freeze == {"sr": 16000}
    own = Target.load("cpu-arm64")
    assert resolve(target=own).target is own
    with pytest.raises(RecipeError, match="unknown recipe 'nine'"):
        resolve("nine")
    with pytest.raises(TargetError, match="unknown target 'toaster'"):
        resolve(target="toaster")
    with pytest.raises(RecipeError, match="precision"):
        resolve(precision="fp12")


def test_shapes_fixed_by_text_or_mapping() -> None:
    expected = {"x": ShapeRange(min=(1, 3), opt=(1, 3), max=(1, 3)), "m:0": ShapeRange(min=(2,), opt=(2,), max=(2,))}
    assert Shapes("x:1x3,m:0:2").sets() == (expected,) == Shapes({"x": (1, 3), "m:0": [2]}).sets()
    assert Shapes().sets() == ()


def test_several_sets_in_their_order() -> None:
    prompt = {"past": ShapeRange(min=(1, 0), opt=(8, 0), max=(9, 0))}
    step = {"past": ShapeRange(min=(1, 1), opt=(1, 5), max=(1, 7)), "y": ShapeRange(min=(2,), opt=(2,), max=(2,))}
    asked = Shapes(min=["past:1x0", "past:1x1,y:2"], opt=("past:8x0", "past:1x5,y:2"), max=("past:9x0", "past:1x7,y:2"))
    assert asked.sets() == (prompt, step)
    assert Shapes(fixed=("a:1", "a:2")).sets() == tuple({"a": ShapeRange(min=(k,), opt=(k,), max=(k,))} for k in (1, 2))
    recipe = Recipe(shapes={"a": "4"}, more_shapes=({"a": "5"}, {"a": {"min": "1", "opt": "2", "max": "3"}}))
    assert [one["a"].opt for one in recipe.shape_sets] == [(4,), (5,), (2,)]
    request = resolve(recipe, shapes=asked)
    assert request.recipe.shape_sets == ({**prompt, "a": recipe.shapes["a"]}, step)
    assert request.insisted == {"past", "y"}
    assert resolve(recipe).recipe.more_shapes == recipe.more_shapes


def test_ranges_of_shapes_and_the_recipes_join() -> None:
    recipe = Recipe(shapes={"a": "1x8", "b": "4"})
    request = resolve(recipe, shapes=Shapes(min="a:1x8", opt="a:2x8", max="a:4x8"))
    assert request.recipe.shapes == {
        "a": ShapeRange(min=(1, 8), opt=(2, 8), max=(4, 8)),
        "b": ShapeRange(min=(4,), opt=(4,), max=(4,)),
    }
    assert request.insisted == {"a"}


def test_an_axis_is_no_longer_than_tensorrt_counts() -> None:
    assert Shapes(fixed=f"x:{2**31 - 1}x1").sets()[0]["x"].max == (2**31 - 1, 1)
    with pytest.raises(UsageError, match="--shapes: x: an axis has 2147483647 elements at most, found 2147483648"):
        Shapes(fixed=f"x:1x{2**31}").sets()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (Shapes(fixed="x:1", max="x:2"), "--shapes fixes every size"),
        (Shapes(min="x:1"), "belong together, once for each set of shapes: found 1, 0 and 0"),
        (Shapes(min="x:1", opt="x:1", max="y:2"), "must name the same inputs"),
        (Shapes(min="x:3", opt="x:1", max="x:2"), "needs 0 <= min <= opt <= max"),
        (Shapes(min="x:1", opt="x:1x1", max="x:2"), "need the same number of axes"),
        (Shapes(fixed="x:axb"), "shapes are written name:1x3x224x224"),
        (Shapes(fixed={"x": (0,)}), "needs 1 <= min on every axis of x: only the length of a cache"),
    ],
)
def test_shapes_that_contradict_themselves(shapes: Shapes, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        shapes.sets()
    assert "\n" not in str(caught.value)
