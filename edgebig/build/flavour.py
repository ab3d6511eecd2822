"""Flavours: the TensorRT modules that are installed here, and what each of them has.

One API serves TensorRT 10.3 to 11.x and TensorRT-RTX. What differs is asked of the module in this file and
nowhere else. Standard library only: this also runs on the device.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from edgebig.build.options import BuildOptions, HardwareLevel
from edgebig.compatibility import has_dla
from edgebig.errors import BuildError, MissingExtra

FlavourName = Literal["tensorrt", "tensorrt-rtx"]

_MODULES: tuple[tuple[FlavourName, str], ...] = (
    ("tensorrt", "tensorrt"),
    ("tensorrt-rtx", "tensorrt_rtx_bindings"),
    ("tensorrt-rtx", "tensorrt_rtx"),
)
_EXTRAS: dict[str, tuple[str, str]] = {"tensorrt": ("gpu", "TensorRT"), "tensorrt-rtx": ("rtx", "TensorRT-RTX")}
_TITLES: dict[str, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_NEEDS_DRIVER = (
    "TensorRT-RTX builds an engine that can be refitted where a GPU and its driver are: "
    "leave refitting and stripped weights out, or compile there"
)


@dataclass(frozen=True)
class Flavour:
    """One TensorRT module.

    Attributes:
        name: ``tensorrt`` or ``tensorrt-rtx``.
        version: as the module says it, ``10.3.0`` for example.
        module: what was imported.
    """

    name: FlavourName
    version: str
    module: ModuleType = field(repr=False, compare=False)

    def __str__(self) -> str:
        """For people."""
        return f"{_TITLES[self.name]} {self.version}"

    @property
    def builds_ahead(self) -> bool:
        """Whether it builds for GPUs that are not in this machine: it then takes compute capabilities."""
        return hasattr(self.module, "ComputeCapability")

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The compute capabilities that it builds for ahead, as ``8.9``, in rising order."""
        if not self.builds_ahead:
            return ()
        names = re.findall(r"\bSM(\d+)(\d)\b", " ".join(self.module.ComputeCapability.__members__))
        return tuple(f"{a}.{b}" for a, b in sorted((int(a), int(b)) for a, b in names))

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT-RTX, whose kernels are compiled where the engine is first loaded."""
        return self.name == "tensorrt-rtx"

    @property
    def has_timing_cache(self) -> bool:
        """TensorRT-RTX times nothing while it builds; its methods for timing caches do nothing."""
        return not self.is_rtx

    def hardware_level(self, level: HardwareLevel) -> Any | None:
        """The module's own value for it; ``None`` where it has none. TensorRT 10.3 lacks ``same-capability``.

        TensorRT-RTX has several capabilities in one engine instead, and passes the levels over.
        """
        name = {"ampere+": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY"}.get(level, "NONE")
        return None if self.is_rtx else getattr(self.module.HardwareCompatibilityLevel, name, None)

    @property
    def has_dla(self) -> bool:
        """Whether it may have DLA cores; how many there are, the builder says.

        TensorRT 10.7 was the last of 10.x with DLA, and 11.4.1 has it again: NVIDIA, TensorRT 11.4.1, "Working with
        DLA". The names stayed in the modules between them, so that nothing but the version tells.
        """
        return not self.is_rtx and has_dla(self.version)

    def network_flags(self, options: BuildOptions) -> int:
        """For ``create_network``: strongly typed, which TensorRT 11 is without being told; not for a DLA of 10."""
        flag = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None or self._types_by_flags(options) else 1 << int(flag)

    def type_for_dla(self, config: Any, network: Any, options: BuildOptions) -> None:
        """Where a network for a DLA is not strongly typed: lets FP16 in, and keeps in FP32 what the graph keeps there.

        Strong typing does not go with DLA before TensorRT 11: the digests of NVIDIA's documentation of TensorRT 10 say
        so, its trtexec sets FP16 and PREFER_PRECISION_CONSTRAINTS for every DLA, and 11.4.1 announces strongly typed
        networks for DLA as new.

        Args:
            config: the builder's.
            network: parsed.
            options: settings.
        """
        if not self._types_by_flags(options):
            return
        trt = self.module
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
        pairs = {trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE}
        computes_nothing = {trt.LayerType.CONSTANT, trt.LayerType.CAST, *pairs}
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        if any(layer.type in pairs for layer in layers):
            config.set_flag(trt.BuilderFlag.INT8)  # else the builder refuses them; the GPU runs what is between
        for layer in layers:
            if layer.type not in computes_nothing and layer.get_output_type(0) == trt.DataType.FLOAT:
                layer.precision = trt.DataType.FLOAT

    def _types_by_flags(self, options: BuildOptions) -> bool:
        return options.dla_core is not None and hasattr(self.module.BuilderFlag, "FP16")

    def set_capabilities(self, config: Any, capabilities: Sequence[str]) -> None:
        """Makes a builder's config serve these compute capabilities, ``8.9`` for example.

        Raises:
            BuildError: it builds no engine for one of them.
        """
        if not self.builds_ahead:
            raise BuildError(
                f"{self} builds for the GPU of this machine alone, not for compute capability {capabilities[0]}: "
                "leave the capabilities out, or build with TensorRT-RTX"
            )
        self.check_capabilities(capabilities)
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            member = getattr(self.module.ComputeCapability, "SM" + capability.replace(".", ""))
            config.set_compute_capability(member, index)

    def check_capabilities(self, capabilities: Sequence[str]) -> None:
        """Refuses a compute capability for which it builds nothing ahead.

        Raises:
            BuildError: says which, and for which it does.
        """
        unknown = next((c for c in capabilities if c not in self.capabilities), None)
        if unknown is not None:
            raise BuildError(
                f"{self} builds no engine for compute capability {unknown}: compile for a target "
                f"whose engine is built on the device, or for one of {', '.join(self.capabilities)}"
            )

    def dla_parser_flag(self) -> Any | None:
        """The parser's flag that shapes layers for DLA; TensorRT 10.3 to 10.13 have none."""
        return getattr(self.module.OnnxParserFlag, "ADJUST_FOR_DLA", None)

    def refusal(self, options: BuildOptions, capabilities: int = 1, *, has_driver: bool = True) -> str:
        """Why this flavour cannot build with these options; empty where it can.

        Args:
            options: what is asked.
            capabilities: how many compute capabilities one engine is to serve.
            has_driver: whether a CUDA driver is here.
        """
        refits = options.refit or options.strip_weights
        for is_asked, flag, first in (
            (options.version_compatible, "VERSION_COMPATIBLE", "8.6"),
            (options.version_compatible, "EXCLUDE_LEAN_RUNTIME", "8.6"),
            (options.refit, "REFIT", "7.0"),
            (options.strip_weights, "STRIP_PLAN", "10.0"),
            (options.weight_streaming, "WEIGHT_STREAMING", "10.0"),
        ):
            if is_asked and not hasattr(self.module.BuilderFlag, flag):
                return f"{self} has no {flag}: TensorRT {first} and later have it"
        if options.hardware_compatible != "none" and self.hardware_level(options.hardware_compatible) is None:
            return self._no_level(options.hardware_compatible)
        if options.dla_core is not None and not self.has_dla:
            has = "TensorRT up to 10.7 (JetPack 6) and from 11.4.1 (JetPack 7.2.2, AGX Orin) have it"
            return f"{self} has no DLA: {has}; compile for a target that has DLA cores (edgebig targets)"
        if self.is_rtx and capabilities > 1 and refits:
            return (
                f"{self} refits engines for one compute capability alone, found {capabilities}: "
                "compile for each by itself, or leave refitting and stripped weights out"
            )
        if self.is_rtx and refits and not has_driver:
            return _NEEDS_DRIVER
        return ""

    def _no_level(self, level: HardwareLevel) -> str:
        if not self.is_rtx:
            return f"{self} has no hardware compatibility {level}: TensorRT 10.13 and later have it"
        if level == "same-capability":
            return f"{self}'s engines load on every GPU of their compute capability as they are: leave it out"
        return (
            f"{self} has no hardware compatibility: "
            "name the compute capabilities that one engine is to serve (--capabilities 8.6,8.9)"
        )

    def hint(self, error: str, options: BuildOptions) -> str:
        """What to do about a builder's error that says little by itself; empty where nothing is known."""
        if self.is_rtx and (options.refit or options.strip_weights) and "CUDA_SUCCESS" in error:
            return _NEEDS_DRIVER
        if "no tactics" in error and "workspace" in error:
            return "give more workspace, or leave its limit out"
        if self.is_rtx and "SM75" in error and "GEMM is not supported" in error:
            return "choose --precision fp16, or int8, which leaves FP16 around it"
        if "libnvinfer_lean" in error:
            return "version compatibility needs TensorRT's lean runtime, which is not installed here"
        return ""


@contextmanager
def quiet() -> Iterator[None]:
    """TensorRT-RTX warns in Python of calls that do nothing there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def find_flavours() -> tuple[Flavour, ...]:
    """What is installed and loads here, the full TensorRT first."""
    found: dict[str, Flavour] = {}
    for name, module in _MODULES:
        if name not in found:
            flavour = _load(name, module)
            if flavour is not None:
                found[name] = flavour
    return tuple(found.values())


def find_flavour(name: str) -> Flavour:
    """The flavour of that name.

    Raises:
        MissingExtra: it is not installed, or does not load.
    """
    for known, module in _MODULES:
        if known == name:
            flavour = _load(known, module)
            if flavour is not None:
                return flavour
    raise MissingExtra(*_EXTRAS[name])


def _load(name: FlavourName, module: str) -> Flavour | None:
    try:
        loaded = import_module(module)
    except (ImportError, OSError):  # OSError: a shared library of it is missing
        return None
    version = getattr(loaded, "__version__", None)
    if version is None or not hasattr(loaded, "Builder"):
        return None
    return Flavour(name, str(version), loaded)
