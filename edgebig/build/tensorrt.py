"""Parses a graph with TensorRT's ONNX parser and builds engines, for every flavour of TensorRT.

Written against the API that TensorRT 10, 11 and TensorRT-RTX share; ``flavour.py`` says what differs. Networks are
strongly typed, but for the DLAs of TensorRT 10: the graph carries the precision. Standard library only: this also runs
on the device.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebig.build.flavour import Flavour, find_flavour, find_flavours, quiet
from edgebig.build.listening import Listening, listen
from edgebig.build.options import BuildOptions
from edgebig.build.profiles import Profile
from edgebig.build.timing_cache import TimingCache
from edgebig.errors import BuildError, MissingExtra

Progress = Callable[[str, int, int], None]
"""Called with the phase, the steps done and the number of steps."""

_ASSERTION = re.compile(r"^Assertion failed: (\(.*?\):?\s*)?")
_LONGEST = 900
_PLAIN = BuildOptions()


@dataclass(frozen=True)
class Built:
    """A finished build.

    Attributes:
        engine: the serialized engine. It is code: whoever loads it must know where it comes from.
        seconds: that parsing and building took.
        warnings: what the builder warned of, each once.
        beside_dla: for a DLA, the layers of the network that the builder gives to the GPU, before it fuses them.
        layers: how many the network has, where it is for a DLA.
    """

    engine: bytes
    seconds: float
    warnings: tuple[str, ...] = ()
    beside_dla: tuple[str, ...] = ()
    layers: int = 0


def rtx_version() -> str:
    """TensorRT-RTX's version.

    Raises:
        MissingExtra: it is not installed.
    """
    return find_flavour("tensorrt-rtx").version


def check_parse(graph: Path, flavour: Flavour | None = None) -> None:
    """Parses the graph, as every NVIDIA target's builder will.

    Args:
        graph: an ONNX file.
        flavour: whose parser; TensorRT-RTX's by default, which needs no GPU, else what is installed.

    Raises:
        BuildError: the parser refuses it; names the node, and says what to do.
        MissingExtra: no TensorRT is installed.
    """
    flavour = flavour or _parser_here()
    heard = listen(flavour.module)
    with quiet():
        _Builder(graph, flavour, heard, _PLAIN)


def build_engine(
    graph: Path,
    flavour: Flavour,
    *,
    profiles: Sequence[Mapping[str, Profile]] = (),
    options: BuildOptions = _PLAIN,
    capabilities: Sequence[str] = (),
    timing_cache: TimingCache | None = None,
    progress: Progress | None = None,
) -> Built:
    """Builds an engine.

    Args:
        graph: an ONNX file that carries its precision.
        flavour: the TensorRT that builds.
        profiles: sets of shapes, each with a profile for every input with a dynamic axis; none for static graphs.
        options: settings.
        capabilities: compute capabilities that the engine is to serve, as ``8.9``; none: this machine's GPU.
        timing_cache: read before, saved every 30 s and at the end; ignored by flavours that time nothing.
        progress: told of each step; what it raises ends the build and is raised here.

    Raises:
        BuildError: the parser or the builder refuses the graph, or the flavour has no such option.
    """
    refused = flavour.refusal(options, len(capabilities))
    if refused:
        raise BuildError(f"cannot build {graph.stem}: {refused}")
    start = time.perf_counter()
    cache = timing_cache if flavour.has_timing_cache else None
    heard = listen(flavour.module, progress, cache)
    where = f" for sm {', '.join(capabilities)}" if capabilities else ""
    with quiet():
        work = _Builder(graph, flavour, heard, options)
        work.configure(profiles, capabilities)
        beside = ((), 0) if options.dla_core is None else work.beside_dla()
        try:
            data = work.build(cache)
        finally:
            if cache is not None:
                cache.detach()
    if heard.stopped is not None:
        raise heard.stopped
    if data is None:
        said = heard.first_error() or "the builder gave no reason"
        hint = flavour.hint(said, options)
        raise BuildError(f"{flavour} cannot build {graph.stem}{where}: {said[:_LONGEST]}{': ' if hint else ''}{hint}")
    return Built(data, time.perf_counter() - start, heard.warnings(), *beside)


def _parser_here() -> Flavour:
    found = find_flavours()
    if not found:
        raise MissingExtra("rtx", "TensorRT-RTX")
    return next((f for f in found if f.is_rtx), found[0])


class _Builder:
    """A parsed network with its builder, alive as long as this object.

    TensorRT's objects must end in the reverse of the order in which they were made: the fields are deleted so.
    """

    def __init__(self, graph: Path, flavour: Flavour, heard: Listening, options: BuildOptions) -> None:
        trt = flavour.module
        self._name, self._flavour, self._options, self._heard = graph.stem, flavour, options, heard
        try:
            builder = trt.Builder(heard.logger)
        except (TypeError, RuntimeError) as error:  # pybind11: the factory returned no object
            said = heard.first_error() or str(error).splitlines()[0]
            raise BuildError(
                f"{flavour} does not start here: {said}: is there a GPU, and does its driver fit?"
            ) from error
        network = builder.create_network(flavour.network_flags(options))
        # Not before: a network that is made with a recorder ends the process when it is deleted (TensorRT-RTX 1.7).
        builder.error_recorder = heard.recorder
        parser = trt.OnnxParser(network, heard.logger)
        if options.dla_core is not None:
            flag = flavour.dla_parser_flag()
            if flag is not None:
                parser.set_flag(flag)
        if not parser.parse_from_file(str(graph)):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            raise BuildError(_refusal(graph, errors, heard))
        config = builder.create_builder_config()
        self._builder, self._network, self._parser, self._config = builder, network, parser, config

    def configure(self, profiles: Sequence[Mapping[str, Profile]], capabilities: Sequence[str]) -> None:
        """Sets the options, the profiles and the GPUs that the engine is for."""
        flavour, config = self._flavour, self._config
        if capabilities:
            flavour.set_capabilities(config, capabilities)
        self._set_options()
        for shapes in profiles:
            profile = self._builder.create_optimization_profile()
            for name, shape in shapes.items():
                profile.set_shape(name, shape.min, shape.opt, shape.max)
            if config.add_optimization_profile(profile) < 0:  # the builder would go on without it
                shapes_text = ", ".join(f"{name} {s.min} to {s.max}, best {s.opt}" for name, s in shapes.items())
                said = self._heard.first_error() or "its sizes must not fall from smallest to best to largest"
                raise BuildError(f"{flavour} cannot build {self._name} with the profile {shapes_text}: {said}")
        if self._heard.monitor is not None:
            config.progress_monitor = self._heard.monitor

    def _set_options(self) -> None:
        trt, config, options = self._flavour.module, self._config, self._options
        flags = trt.BuilderFlag
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.aux_streams is not None:
            config.max_aux_streams = options.aux_streams
        if options.detailed_verbosity:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options.version_compatible:
            config.set_flag(flags.VERSION_COMPATIBLE)
            config.set_flag(flags.EXCLUDE_LEAN_RUNTIME)  # it is host code, which no engine of ours may bring
        if options.hardware_compatible != "none":
            config.hardware_compatibility_level = self._flavour.hardware_level(options.hardware_compatible)
        if options.refit:
            config.set_flag(flags.REFIT)
        if options.strip_weights:
            config.set_flag(flags.STRIP_PLAN)
        if options.weight_streaming:
            config.set_flag(flags.WEIGHT_STREAMING)
        if options.dla_core is not None:
            self._use_dla(options.dla_core)

    def _use_dla(self, core: int) -> None:
        trt, config = self._flavour.module, self._config
        cores = self._builder.num_DLA_cores
        if core >= cores:
            found = f"it has {cores}" if cores else "this machine or this TensorRT has none"
            raise BuildError(f"{self._flavour}: DLA core {core} was asked for and {found}: leave it out")
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = core
        self._flavour.type_for_dla(config, self._network, self._options)
        if self._options.gpu_fallback:
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)

    def beside_dla(self) -> tuple[tuple[str, ...], int]:
        """Names of the layers that a DLA cannot run, by the builder's own word, and how many layers there are."""
        network, config = self._network, self._config
        count = network.num_layers
        layers = (network.get_layer(index) for index in range(count))
        return tuple(str(layer.name) for layer in layers if not config.can_run_on_DLA(layer)), count

    def build(self, timing_cache: TimingCache | None) -> bytes | None:
        """The serialized engine; ``None`` where the builder refuses, or was told to stop."""
        if timing_cache is not None:
            timing_cache.attach(self._config)
        engine = self._builder.build_serialized_network(self._network, self._config)
        if timing_cache is not None:  # a build that failed has timed kernels too
            timing_cache.save()
            timing_cache.detach()
        data = None if engine is None else bytes(engine)
        del engine, self._config, self._parser, self._network, self._builder
        return data


def _refusal(graph: Path, errors: Sequence[Any], heard: Listening) -> str:
    if not errors:
        said = heard.first_error() or "the parser gave no reason"
        return f"TensorRT's parser refuses {graph.stem}: {said}"[:_LONGEST]
    first = errors[0]
    why = _ASSERTION.sub("", first.desc()).strip()
    if why in {"", "false"}:
        why = "it has no such operator"
    more = f" ({len(errors) - 1} more nodes are refused)" if len(errors) > 1 else ""
    return (
        f"TensorRT's parser refuses the {first.node_operator() or 'graph'} node {first.node_name() or first.node()!r} "
        f"of {graph.stem}: {why}{more}: replace that operator in the model, remove it with --freeze or --shapes "
        "if it depends on an input, or compile for --target cpu"
    )
