"""What the recipe asks of the engine builder, refused before anything is read where nothing there has it."""

from __future__ import annotations

from edgebig.build import BuildOptions, find_flavour
from edgebig.device.cuda_driver import CudaDevice, cuda_device
from edgebig.errors import BuildError, PrecisionError, TargetError, UsageError
from edgebig.quantize.assignment import WEIGHT_ONLY
from edgebig.quantize.rules_dla import PRECISIONS
from edgebig.recipe import BuildRecipe
from edgebig.request import Request
from edgebig.target import targets

_JETSONS = {"7.2", "8.7", "11.0"}
"""Compute capabilities of Xavier, Orin and Thor."""


def options_of(request: Request) -> BuildOptions:
    """The builder's options, as the recipe's ``build`` has them."""
    return BuildOptions.of(request.recipe.build.model_dump())


def check_build(request: Request) -> None:
    """Refuses options of the builder that the target, or the builder for it, does not have.

    Raises:
        UsageError, TargetError, BuildError: it says which option, and what has it.
        PrecisionError: the DLA computes in no such format.
    """
    options, target = options_of(request), request.target
    if target.engine == "host":
        build, plain = request.recipe.build, BuildRecipe()
        given = [name for name in BuildRecipe.model_fields if getattr(build, name) != getattr(plain, name)]
        if given:
            raise UsageError(
                f"{', '.join(name.replace('_', ' ') for name in given)}: options of TensorRT's builder, and "
                f"{target.name} has none: leave them out, or compile for a target with a GPU (edgebig targets)"
            )
        return
    if options.dla_core is not None:
        _check_dla(options.dla_core, request)
    if target.engine == "ahead":
        rtx = find_flavour("tensorrt-rtx")
        rtx.check_capabilities(request.recipe.capabilities or (str(target.compute_capability),))
        _check_formats(request)
        is_here = isinstance(cuda_device(), CudaDevice)
        refused = rtx.refusal(options, len(request.recipe.capabilities) or 1, has_driver=is_here)
        if refused:
            raise BuildError(refused)
    if target.compute_capability in _JETSONS and options.hardware_compatible == "ampere+":
        raise TargetError(
            f"hardware compatibility ampere+ is for discrete GPUs, and {target.name} is a Jetson, where TensorRT lacks "
            "it: leave it out; the device builds its own engine (edgebig finish)"
        )


def _check_formats(request: Request) -> None:
    """One engine for several GPUs has one precision, which each of them must have."""
    precision = request.recipe.precision
    needed = WEIGHT_ONLY.get(precision, precision)
    for capability in request.recipe.capabilities:
        rows = [row for row in targets().values() if row.compute_capability == capability]
        if precision != "auto" and rows and not any(needed in row.precisions for row in rows):
            raise PrecisionError(
                f"--precision {precision}: compute capability {capability} has no {needed.upper()}: leave it out, or "
                "compile for it by itself in another precision"
            )


def _check_dla(core: int, request: Request) -> None:
    target, precision = request.target, request.recipe.precision
    if core >= target.dla_cores:
        having = ", ".join(name for name, row in targets().items() if row.dla_cores > core)
        found = f"has {target.dla_cores} DLA cores" if target.dla_cores else "has no DLA"
        other = f", or use {having}" if having else ""
        raise TargetError(f"DLA core {core} was asked for and {target.name} {found}: leave it out{other}")
    if precision not in PRECISIONS:
        raise PrecisionError(
            f"a DLA computes in FP16 and INT8 alone, and {precision} was asked for: choose --precision fp16 or int8, "
            "or leave the DLA out"
        )
