"""The errors that edgebig raises, each with the exit code that the command line ends with.

::

    EdgebigError                 1   anything that fits no class below
    ├── UsageError               2   the request contradicts itself or the model (--shapes names no input)
    ├── MissingExtra             3   an optional package is not installed
    ├── SourceError              4   no such model, not an ONNX file, data missing, task unknown
    │   └── ExportMismatch       5   the exported graph computes something else than the original
    ├── GraphError               6   a graph is invalid, or a pass made it so
    ├── CalibrationError         7   samples missing, of the wrong shape or dtype, or not finite
    ├── RecipeError              8   no such recipe, or a field of it is wrong
    ├── TargetError              9   no such target, or a field of it is wrong
    │   └── PrecisionError      10   the target has no such number format
    ├── BuildError              11   the engine builder refused the graph
    ├── AccuracyError           12   the result differs from the original beyond what was allowed
    ├── OutputError             13   the bundle, or the shared memory, cannot be written where it was asked
    ├── BundleError             14   not a bundle, damaged, or of an unknown version
    ├── InputError              15   an array does not fit the model's inputs
    ├── BackendError            16   nothing on this machine can run the bundle, or it failed while running
    ├── EvaluationError         17   labels are missing or wrong, or a metric does not fit the model
    ├── DeadlineError           18   a result did not come within the time given
    └── StreamError             19   an item of a stream could not be read, prepared, run or finished

Every message is one line: what was asked, what was found, and what to do next.
"""

from __future__ import annotations

from typing import Any


class EdgebigError(Exception):
    """Base of all errors that edgebig raises on purpose; ``exit_code`` is the process's exit status."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    def __reduce__(self) -> tuple[Any, ...]:  # without __init__, whose arguments are not everywhere the message
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[EdgebigError], args: tuple[Any, ...]) -> EdgebigError:
    """An error out of a pickle: a worker process hands them to its parent so."""
    error = kind.__new__(kind)
    error.args = args
    return error


class UsageError(EdgebigError):
    """The request contradicts itself or the model."""

    exit_code = 2


class MissingExtra(EdgebigError):
    """An optional package is not installed. ``extra`` is the name to install."""

    exit_code = 3

    def __init__(self, extra: str, module: str = "") -> None:
        found = f" ({module} is not installed)" if module else ""
        super().__init__(f'this needs edgebig[{extra}]{found}: pip install "edgebig[{extra}]"')
        self.extra = extra


class SourceError(EdgebigError):
    """The model to compile cannot be found, read or exported."""

    exit_code = 4


class ExportMismatch(SourceError):
    """The exported graph computes something else than the original."""

    exit_code = 5


class GraphError(EdgebigError):
    """A graph is invalid, or a pass made it so."""

    exit_code = 6


class CalibrationError(EdgebigError):
    """Calibration samples are missing, do not fit the model, or are not finite."""

    exit_code = 7


class RecipeError(EdgebigError):
    """No such recipe, or one of its fields is wrong."""

    exit_code = 8


class TargetError(EdgebigError):
    """No such target, or one of its fields is wrong."""

    exit_code = 9


class PrecisionError(TargetError):
    """The target has no such number format."""

    exit_code = 10


class BuildError(EdgebigError):
    """The engine builder refused the graph."""

    exit_code = 11


class AccuracyError(EdgebigError):
    """The result differs from the original beyond what was allowed."""

    exit_code = 12


class OutputError(EdgebigError):
    """The bundle, or the shared memory, cannot be written where it was asked."""

    exit_code = 13


class BundleError(EdgebigError):
    """Not a bundle, a damaged one, or one of an unknown schema version."""

    exit_code = 14


class InputError(EdgebigError):
    """An array does not fit the model's inputs."""

    exit_code = 15


class BackendError(EdgebigError):
    """Nothing on this machine can run the bundle, or the backend failed while running it."""

    exit_code = 16


class EvaluationError(EdgebigError):
    """Labels are missing or wrong, or a metric does not fit the model's outputs."""

    exit_code = 17


class DeadlineError(EdgebigError, TimeoutError):
    """A result did not come within the time given; Python's ``TimeoutError`` too."""

    exit_code = 18


class StreamError(EdgebigError):
    """An item of a stream failed; ``__cause__`` is what was raised.

    Attributes:
        item: its number, counted from 0.
        step: ``read``, ``before``, ``run`` or ``after``.
    """

    exit_code = 19

    def __init__(self, item: int, step: str, error: BaseException) -> None:
        super().__init__(f"item {item} of the stream: {step}: {type(error).__name__}: {error}")
        self.item, self.step = item, step
