"""BuildOptions: what is asked of an engine builder besides the graph, its profiles and the GPU."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from edgebig.errors import UsageError


@dataclass(frozen=True)
class BuildOptions:
    """Settings of a build. Each default is the builder's own, except that engines can be inspected.

    There is no precision among them: the graph carries it.

    Attributes:
        workspace_bytes: memory that one layer may use for scratch; the whole GPU's by default.
        optimization_level: 0 (fastest build) to 5 (fastest engine); the builder's own by default.
        aux_streams: streams beside the main one that an engine may use; the builder decides by default.
        version_compatible: the engine also loads in later TensorRTs. It holds no lean runtime, which is host
            code: the device's own is used.
        hardware_compatible: the engine also loads on other GPUs of Ampere and newer; it may be slower.
        dla_core: the deep learning accelerator that runs what it can; ``None``: the GPU runs all.
        gpu_fallback: whether the GPU runs what a DLA cannot; without it such a layer fails the build.
        strip_weights: the engine holds no weights; they come from the portable graph when it is loaded.
        refit: weights can be replaced in the built engine.
        weight_streaming: weights may stay in host memory and go to the GPU layer by layer.
        detailed_verbosity: the engine says of each layer what it became.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    aux_streams: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    gpu_fallback: bool = True
    strip_weights: bool = False
    refit: bool = False
    weight_streaming: bool = False
    detailed_verbosity: bool = True

    def __post_init__(self) -> None:
        for name, low, high in (
            ("workspace_bytes", 1, None),
            ("optimization_level", 0, 5),
            ("aux_streams", 0, None),
            ("dla_core", 0, None),
        ):
            value = getattr(self, name)
            if value is not None and (value < low or (high is not None and value > high)):
                asked = f"{low} or more" if high is None else f"{low} to {high}"
                raise UsageError(f"{name.replace('_', ' ')} is {asked}, found {value}")
        if self.dla_core is not None and self.hardware_compatible:
            raise UsageError("an engine for a DLA runs on that device alone: leave hardware compatibility out")

    def key(self) -> str:
        """Canonical text: equal for options that ask for the same engine."""
        return json.dumps(asdict(self), sort_keys=True)
