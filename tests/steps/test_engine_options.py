"""Options of the engine builder are refused before anything is read where the target or the builder lacks them."""

from __future__ import annotations

from typing import Any

import pytest

from edgebig.errors import BuildError, EdgebigError, PrecisionError, RecipeError, TargetError, UsageError
from edgebig.recipe import Recipe
from edgebig.request import Request, Shapes
from edgebig.steps.engine_options import check_build, options_of

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


def request(target: str, precision: str = "fp16", several: tuple[str, ...] = (), **build: Any) -> Request:
    recipe = Recipe.of("the request", {"build": build, "capabilities": several})
    return Request.resolve(recipe, target, None, Shapes(), {"precision": precision})


def test_plain_options_pass_everywhere() -> None:
    for target in ("cpu", "l4", "agx-orin-64gb", "h100"):
        check_build(request(target, "fp32"))


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        (
            request("cpu", "fp32", workspace="2G"),
            UsageError,
            "workspace: options of TensorRT's builder, and cpu has none",
        ),
        (request("l4", dla_core=0), TargetError, "DLA core 0 was asked for and l4 has no DLA: .* agx-orin-64gb"),
        (request("orin-nx-8gb", dla_core=1), TargetError, "DLA core 1 was asked for and orin-nx-8gb has 1 DLA cores"),
        (request("agx-orin-64gb", "bf16", dla_core=0), PrecisionError, "FP16 and INT8 alone, and bf16 was asked for"),
        (request("agx-orin-64gb", "auto", dla_core=0), PrecisionError, "FP16 and INT8 alone, and auto was asked for"),
        (
            request("agx-orin-64gb", hardware_compatible="ampere+"),
            TargetError,
            "for discrete GPUs, and agx-orin-64gb is",
        ),
        (request("l4", hardware_compatible="ampere+"), BuildError, "name the compute capabilities"),
        (request("agx-orin-64gb", gpu_fallback=False), UsageError, "name its core with --dla-core"),
        (request("agx-orin-64gb", dla_core=2), TargetError, "has 2 DLA cores: leave it out$"),
        (request("agx-orin-64gb", aux_streams=1 << 31), UsageError, "aux streams is 0 to 2147483647, found 2147483648"),
        (request("h100", workspace=1 << 63), UsageError, "workspace is 0 to 9223372036854775807, found"),
        (request("l4", several=("8.7", "8.9")), BuildError, r"no engine for compute capability 8\.7: .* one of 7\.5, "),
        (request("l4", "fp8", several=("8.9", "8.6")), PrecisionError, r"fp8: compute capability 8\.6 has no FP8"),
        (request("l4", "int4", several=("7.5", "8.9")), PrecisionError, r"int4: compute capability 7\.5 has no INT4"),
    ],
)
def test_what_a_target_or_builder_lacks_is_one_line(asked: Request, kind: type[EdgebigError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        check_build(asked)
    assert "\n" not in str(caught.value)


def test_what_fits_passes() -> None:
    check_build(request("l4", "bf16", several=("8.6", "8.9", "12.0")))
    assert request("l4", several=("8.9", "8.6", "8.9")).recipe.capabilities == ("8.9", "8.6")
    assert options_of(request("l4", weight_streaming=0)).weight_streaming_budget == 0
    check_build(request("agx-orin-64gb", dla_core=1, gpu_fallback=False))
    check_build(request("agx-orin-64gb", "int8", dla_core=0))
    check_build(request("h100", hardware_compatible="ampere+", strip_weights=True))
    assert options_of(request("l4", workspace="2G", weight_streaming="auto")).streaming == "auto"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"workspace": "two"}, "build.workspace: .* is written 2G, 512M"),
        ({"optimization_level": 6}, "build.optimization_level: .* less than or equal to 5"),
        ({"weight_streaming": "always"}, "build.weight_streaming: it is auto, or a size as 2G, .*, found 'always'"),
        ({"weight_streaming": True}, "build.weight_streaming: it is auto, or a size as 2G, .*, found True"),
        ({"weight_streaming": -1}, "build.weight_streaming: it is auto, or a size"),
        ({"weight_streaming": 1.5}, "build.weight_streaming: it is auto, or a size"),
        ({"workspace": True}, "build.workspace: takes a number, found True"),
        ({"optimization_level": True}, "build.optimization_level: takes a number"),
        ({"dla_core": False}, "build.dla_core: takes a number"),
        (
            {"several": (8.6, 8.9)},
            r'capabilities: .* in a recipe \["8\.6", "8\.9"\] with the quotes, found \(8\.6, 8\.9\)',
        ),
        ({"several": ("89",)}, "capabilities: compute capabilities are written 8.6,8.9"),
        ({"several": "8.9"}, "capabilities: compute capabilities are written 8.6,8.9"),
        ({"tactics": 3}, "build.tactics"),
    ],
)
def test_a_wrong_field_of_a_recipe_is_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        request("l4", **fields)
