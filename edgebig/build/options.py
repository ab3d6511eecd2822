"""BuildOptions: what is asked of an engine builder besides the graph, its profiles and the GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from edgebig.errors import UsageError
from edgebig.units import parse_bytes

HardwareLevel = Literal["none", "ampere+", "same-capability"]
HARDWARE_LEVELS: tuple[HardwareLevel, ...] = ("none", "ampere+", "same-capability")

_INT32, _INT64 = (1 << 31) - 1, (1 << 63) - 1
"""What TensorRT's API holds."""

_LEAST_WORKSPACE = 1 << 20
"""Below it no layer finds what it needs: the unit was left out."""

_AT_RUN_TIME = ("weight_streaming_budget",)
"""What the runtime is told and the builder is not: engines that differ in it alone are one."""


@dataclass(frozen=True)
class BuildOptions:
    """Settings of a build. Each default is the builder's own, except that engines can be inspected.

    There is no precision among them: the graph carries it.

    Attributes:
        workspace_bytes: memory that one layer may use for scratch; the whole GPU's by default.
        optimization_level: 0 (fastest build) to 5 (fastest engine); the builder's own by default.
        aux_streams: streams beside the main one that an engine may use; the builder decides by default.
        version_compatible: the engine also loads in later TensorRTs, with the lean runtime of the version that built
            it. It does not hold that one, since it is host code: it must be installed there.
        hardware_compatible: ``ampere+``: the engine also loads on other GPUs of Ampere and newer;
            ``same-capability``: on every GPU of its own compute capability, without a warning. It may be slower.
        dla_core: the deep learning accelerator that runs what it can; ``None``: the GPU runs all.
        gpu_fallback: whether the GPU runs what a DLA cannot; without it such a layer fails the build.
        strip_weights: the engine holds no weights; they come from the portable graph when it is loaded.
        refit: weights can be replaced in the built engine.
        weight_streaming: weights may stay in host memory and go to the GPU layer by layer.
        weight_streaming_budget: bytes of such weights that stay on the GPU when the engine is loaded; TensorRT's own
            choice by default.
        detailed_verbosity: the engine says of each layer what it became.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    aux_streams: int | None = None
    version_compatible: bool = False
    hardware_compatible: HardwareLevel = "none"
    dla_core: int | None = None
    gpu_fallback: bool = True
    strip_weights: bool = False
    refit: bool = False
    weight_streaming: bool = False
    weight_streaming_budget: int | None = None
    detailed_verbosity: bool = True

    def __post_init__(self) -> None:
        for name, low, high in (
            ("optimization_level", 0, 5),
            ("aux_streams", 0, _INT32),
            ("dla_core", 0, _INT32),
            ("weight_streaming_budget", 0, _INT64),
            ("workspace_bytes", 0, _INT64),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name.removesuffix('_bytes').replace('_', ' ')} is {low} to {high}, found {value}")
        if self.workspace_bytes is not None and self.workspace_bytes < _LEAST_WORKSPACE:
            raise UsageError(f"workspace is 1M or more, found {self.workspace_bytes} bytes: write 512M or 2G")
        if self.hardware_compatible not in HARDWARE_LEVELS:
            levels = " or ".join(HARDWARE_LEVELS[1:])
            raise UsageError(f"hardware compatibility is {levels}, found {self.hardware_compatible!r}")
        if self.dla_core is not None and self.hardware_compatible != "none":
            raise UsageError("an engine for a DLA runs on that device alone: leave hardware compatibility out")
        if self.dla_core is None and not self.gpu_fallback:
            raise UsageError("without GPU fallback a DLA runs everything: name its core with --dla-core")
        if self.weight_streaming_budget is not None and not self.weight_streaming:
            raise UsageError("a budget for weight streaming needs weight streaming")

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> BuildOptions:
        """The options that a recipe's ``build`` fields ask for, read from plain data; those that are unknown are left.

        Args:
            asked: fields of :class:`edgebig.recipe.BuildRecipe`, such as a bundle's manifest keeps. ``workspace`` is
                in bytes; ``weight_streaming`` is ``auto`` or the budget in bytes. ``None`` stands for the default.

        Raises:
            UsageError: a value that its option cannot take.
        """
        given = {name: value for name, value in asked.items() if value is not None}
        if "workspace" in given:
            given["workspace_bytes"] = _size(given.pop("workspace"), "workspace")
        streaming = given.pop("weight_streaming", None)
        if streaming is not None:
            given["weight_streaming"] = True
            if streaming != "auto":
                given["weight_streaming_budget"] = _size(streaming, "the budget of weight streaming")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in given.items() if name in known})

    @property
    def streaming(self) -> int | str | None:
        """What the runtime is to do with weights that stream: ``auto`` or bytes; ``None`` where they do not."""
        if not self.weight_streaming:
            return None
        return "auto" if self.weight_streaming_budget is None else self.weight_streaming_budget

    def key(self) -> str:
        """Canonical text: equal for options that ask for the same engine."""
        return json.dumps({k: v for k, v in asdict(self).items() if k not in _AT_RUN_TIME}, sort_keys=True)


def _size(value: Any, what: str) -> int:
    return parse_bytes(str(value), what)
