"""What TensorRT says while it parses and builds: its log, its errors and its progress, as Python objects.

The classes are made from the module's own bases, which differ between TensorRT and TensorRT-RTX.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from edgebig.build.timing_cache import TimingCache

_PLACE = re.compile(r"\s+In \w+ at \S+:\d+\)$")
_CALL = re.compile(r"^I\w+::\w+: Error Code \d+: ")


@dataclass
class Listening:
    """What was heard of one build.

    Attributes:
        logger, recorder: for the builder; ``monitor``: for its config, ``None`` where nobody asks for progress.
        stopped: what the progress callback raised, which ended the build.
    """

    logger: Any = None
    recorder: Any = None
    monitor: Any = None
    stopped: BaseException | None = None
    _errors: list[str] = field(default_factory=list)
    _warnings: dict[str, None] = field(default_factory=dict)

    def first_error(self) -> str:
        """The first error, in one line and without the place in TensorRT's source; empty where there was none."""
        return self._errors[0] if self._errors else ""

    def warnings(self) -> tuple[str, ...]:
        """The warnings, each once, in their order."""
        return tuple(self._warnings)

    def error(self, text: str) -> None:
        """Keeps an error."""
        self._errors.append(in_words(text))

    def warn(self, text: str) -> None:
        """Keeps a warning."""
        self._warnings[in_words(text)] = None


def listen(
    trt: ModuleType,
    progress: Callable[[str, int, int], None] | None = None,
    timing_cache: TimingCache | None = None,
) -> Listening:
    """A logger, an error recorder and a progress monitor that share what they hear.

    Args:
        trt: the module of the flavour.
        progress: called with the phase, the steps done and the number of steps.
        timing_cache: saved from time to time while the build runs.
    """
    heard = Listening()
    heard.logger = _logger(trt, heard)
    heard.recorder = _recorder(trt, heard)
    if progress is not None or timing_cache is not None:
        heard.monitor = _monitor(trt, heard, progress, timing_cache)
    return heard


def in_words(text: str) -> str:
    """An error of TensorRT in one line, without the place in its source; the nodes that it names stay."""
    line = " ".join(text.split())
    line = _CALL.sub("", line)
    if line.endswith(")"):
        line = _PLACE.sub(")", line)
    return line


def _logger(trt: ModuleType, heard: Listening) -> Any:
    # looked up once: there are thousands of messages of lesser weight
    error, warning = trt.ILogger.Severity.ERROR, trt.ILogger.Severity.WARNING

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        """Keeps errors and warnings; TensorRT's own logger prints them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity > warning:
                return
            if severity <= error:
                heard.error(message)
            else:
                heard.warn(message)

    return Logger()


def _recorder(trt: ModuleType, heard: Listening) -> Any:
    class Recorder(trt.IErrorRecorder):  # type: ignore[misc,name-defined]
        """Takes the errors that do not go to the logger once a builder has a recorder."""

        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self._found: list[tuple[Any, str]] = []

        def report_error(self, code: Any, description: str) -> bool:
            self._found.append((code, description))
            heard.error(description)
            return False  # whether the error is fatal: TensorRT knows best

        def num_errors(self) -> int:
            return len(self._found)

        def get_error_code(self, index: int) -> Any:
            return self._found[index][0]

        def get_error_desc(self, index: int) -> str:
            return self._found[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self._found.clear()

    return Recorder()


def _monitor(
    trt: ModuleType,
    heard: Listening,
    progress: Callable[[str, int, int], None] | None,
    timing_cache: TimingCache | None,
) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        """Hands the builder's progress on. What is raised in it, TensorRT would print and go on."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if timing_cache is not None:
                    timing_cache.tick()
                if progress is not None:
                    progress(phase_name, step + 1, self._steps.get(phase_name, 0))
            except BaseException as error:  # build_engine raises it
                heard.stopped = heard.stopped or error
            return heard.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
