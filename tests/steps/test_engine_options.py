"""Options of the engine builder are refused before anything is read where the target or the builder lacks them."""

from __future__ import annotations

from typing import Any

import pytest

from edgebig.errors import BuildError, EdgebigError, PrecisionError, RecipeError, TargetError, UsageError
from edgebig.recipe import Recipe
from edgebig.request import Request, Shapes
from edgebig.steps.engine_options import check_build, options_of

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


def request(target: str, precision: str = "fp16", **build: Any) -> Request:
    return Request.resolve(Recipe.of("the request", {"build": build}), target, None, Shapes(), {"precision": precision})


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
    ],
)
def test_what_a_target_or_builder_lacks_is_one_line(asked: Request, kind: type[EdgebigError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        check_build(asked)
    assert "\n" not in str(caught.value)


def test_what_fits_passes() -> None:
    check_build(request("agx-orin-64gb", dla_core=1, gpu_fallback=False))
    check_build(request("agx-orin-64gb", "int8", dla_core=0))
    check_build(request("h100", hardware_compatible="ampere+", strip_weights=True))
    assert options_of(request("l4", workspace="2G", weight_streaming="auto")).streaming == "auto"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"workspace": "two"}, "build.workspace: .* is written 2G, 512M"),
        ({"optimization_level": 6}, "build.optimization_level: .* less than or equal to 5"),
        ({"weight_streaming": "always"}, "build.weight_streaming"),
        ({"tactics": 3}, "build.tactics"),
    ],
)
def test_a_wrong_field_of_a_recipe_is_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        request("l4", **fields)
