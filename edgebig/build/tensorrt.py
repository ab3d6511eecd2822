"""Parses a graph with TensorRT's ONNX parser and builds engines.

Written against the API that TensorRT 10, 11 and TensorRT-RTX share; the module is passed around, so
that one builder serves all. Here only TensorRT-RTX is used, which needs no GPU to parse and build.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from edgebig.build.profiles import Profile
from edgebig.errors import BuildError, MissingExtra

Progress = Callable[[str, int, int], None]
"""Called with the phase, the steps done and the number of steps."""

_ASSERTION = re.compile(r"^Assertion failed: (\(.*?\):?\s*)?")


def rtx_version() -> str:
    """TensorRT-RTX's version.

    Raises:
        MissingExtra: it is not installed.
    """
    return str(_rtx().__version__)


def check_parse(graph: Path) -> None:
    """Parses the graph, as every NVIDIA target's builder will.

    Raises:
        BuildError: the parser refuses it; names the node, and says what to do.
        MissingExtra: TensorRT-RTX is not installed.
    """
    _parse(_rtx(), graph, _make_logger(_rtx()))


def build_engine(
    graph: Path, capabilities: Sequence[str], profiles: Mapping[str, Profile], progress: Progress | None = None
) -> bytes:
    """Builds a TensorRT-RTX engine, with no GPU in the machine.

    Args:
        graph: an ONNX file that carries its precision.
        capabilities: compute capabilities, as ``8.9``.
        profiles: one for each input with a dynamic axis.
        progress: told of each step.

    Raises:
        BuildError: the parser or the builder refuses the graph.
        MissingExtra: TensorRT-RTX is not installed.
    """
    trt = _rtx()
    logger = _make_logger(trt)
    builder, network, parser = _parse(trt, graph, logger)
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(_capability(trt, capability), index)
    if profiles:
        profile = builder.create_optimization_profile()
        for name, shapes in profiles.items():
            profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
        config.add_optimization_profile(profile)
    monitor = _make_monitor(trt, progress) if progress is not None else None
    if monitor is not None:
        config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.stopped is not None:
        raise monitor.stopped
    if engine is None:
        said = logger.errors[0] if logger.errors else "the builder gave no reason"
        raise BuildError(f"TensorRT-RTX cannot build {graph.stem} for sm {', '.join(capabilities)}: {said}"[:900])
    data = bytes(engine)
    del parser, network, builder
    return data


def _rtx() -> ModuleType:
    try:
        import tensorrt_rtx_bindings as trt
    except ImportError as error:
        raise MissingExtra("rtx", "TensorRT-RTX") from error
    module: ModuleType = trt
    return module


def _parse(trt: ModuleType, graph: Path, logger: Any) -> tuple[Any, Any, Any]:
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise BuildError(_refusal(graph, [parser.get_error(i) for i in range(parser.num_errors)], logger))
    return builder, network, parser


def _refusal(graph: Path, errors: Sequence[Any], logger: Any) -> str:
    if not errors:
        said = logger.errors[0] if logger.errors else "the parser gave no reason"
        return f"TensorRT's parser refuses {graph.stem}: {said}"[:900]
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


def _capability(trt: ModuleType, capability: str) -> Any:
    name = "SM" + capability.replace(".", "")
    found = getattr(trt.ComputeCapability, name, None)
    if found is None:
        raise BuildError(
            f"TensorRT-RTX {trt.__version__} builds no engine for compute capability {capability}: "
            "compile for a target whose engine is built on the device"
        )
    return found


def _make_logger(trt: ModuleType) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        """Keeps the errors for the message; TensorRT's own logger prints them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(" ".join(message.split()))

    return Logger()


def _make_monitor(trt: ModuleType, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        """Hands the builder's progress on."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self.stopped: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                progress(phase_name, step + 1, self._steps.get(phase_name, 0))
            except BaseException as error:  # TensorRT would print it and go on: build_engine raises it
                self.stopped = error
            return self.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
