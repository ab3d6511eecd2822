"""A TensorRT module that records what is asked of it, for flavours that cannot run where tests do.

It knows nothing of TensorRT's behaviour; test_bindings.py holds the names used against the real bindings.
"""

from __future__ import annotations

from enum import IntEnum
from types import SimpleNamespace
from typing import Any


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class Base:
    Severity = Severity

    def __init__(self) -> None:
        pass


class Cache:
    """A set of kernels, written as text."""

    def __init__(self, kernels: bytes) -> None:
        self.kernels = set(kernels.split())

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self.kernels |= other.kernels
        return True

    def serialize(self) -> bytes:
        return b" ".join(sorted(self.kernels))


class Config:
    def __init__(self) -> None:
        object.__setattr__(self, "said", [])

    def __setattr__(self, name: str, value: object) -> None:
        self.said.append((name, value))
        object.__setattr__(self, name, value)

    def set_flag(self, flag: object) -> None:
        self.said.append(("flag", flag))

    def set_memory_pool_limit(self, pool: object, size: int) -> None:
        self.said.append((pool, size))

    def can_run_on_DLA(self, layer: SimpleNamespace) -> bool:
        return layer.name != "GlobalAveragePool"

    def add_optimization_profile(self, profile: dict[str, Any]) -> int:
        self.said.append(("profile", dict(profile)))
        return 0

    def create_timing_cache(self, data: bytes) -> Cache:
        return Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        self.said.append(("timing cache", ignore_mismatch))
        object.__setattr__(self, "cache", cache)
        return True


class Network:
    num_layers = 3
    first = "Conv"

    def __init__(self) -> None:
        names, kinds = (self.first, "GlobalAveragePool", "Softmax"), ("HALF", "HALF", "FLOAT")
        self.layers = [
            SimpleNamespace(name=name, type=name, precision=None, get_output_type={0: kind}.get)
            for name, kind in zip(names, kinds, strict=True)
        ]

    def get_layer(self, index: int) -> SimpleNamespace:
        return self.layers[index]


class Profiles(dict[str, Any]):
    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self[name] = shapes


def make_trt(*, version: str = "10.3.0", strongly_typed: int | None = 1, dla_cores: int = 2, refuses: str = "") -> Any:
    """The module; its ``config`` and ``network_flags`` tell what a build asked. ``refuses`` fails each build."""
    trt = SimpleNamespace(__version__=version, ILogger=Base, IErrorRecorder=Base, IProgressMonitor=Base)
    flags = {} if strongly_typed is None else {"STRONGLY_TYPED": strongly_typed}
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(**flags)
    names = "VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME REFIT STRIP_PLAN WEIGHT_STREAMING GPU_FALLBACK"
    if version.startswith(("8", "10")):
        names += " FP16 INT8 PREFER_PRECISION_CONSTRAINTS"
    trt.BuilderFlag = SimpleNamespace(**{name: name for name in names.split()})
    trt.LayerType = SimpleNamespace(CONSTANT="Constant", CAST="Cast", QUANTIZE="Quantize", DEQUANTIZE="Dequantize")
    trt.DataType = SimpleNamespace(FLOAT="FLOAT")
    trt.MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
    trt.ProfilingVerbosity = SimpleNamespace(DETAILED="DETAILED")
    trt.HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="AMPERE_PLUS")
    trt.DeviceType = SimpleNamespace(DLA="DLA")
    trt.OnnxParserFlag = SimpleNamespace()
    trt.config = Config()

    class Builder:
        num_DLA_cores = dla_cores
        error_recorder: Any = None

        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Network:
            trt.network_flags = flags
            trt.network = Network()
            return trt.network  # type: ignore[no-any-return]

        def create_builder_config(self) -> Config:
            return trt.config  # type: ignore[no-any-return]

        def create_optimization_profile(self) -> Profiles:
            return Profiles()

        def build_serialized_network(self, network: object, config: Config) -> bytes | None:
            self.logger.log(Severity.WARNING, "slow   here")
            if refuses:
                self.error_recorder.report_error(7, refuses)
                return None
            if hasattr(config, "cache"):
                config.cache.kernels.add(b"kernel-of-" + version.encode())
            return b"engine"

    class OnnxParser:
        def __init__(self, network: object, logger: object) -> None:
            self.flags: list[object] = []

        def parse_from_file(self, path: str) -> bool:
            return True

        def set_flag(self, flag: object) -> None:
            trt.config.said.append(("parser", flag))

    trt.Builder, trt.OnnxParser = Builder, OnnxParser
    return trt
