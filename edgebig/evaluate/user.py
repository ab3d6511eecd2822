"""A user's own metric: a Python function in a file."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from edgebig.errors import EvaluationError
from edgebig.evaluate.item import Array, Item, Outputs
from edgebig.evaluate.metric import Metric
from edgebig.evaluate.outputs import joined

_FEW = 50


def user_metric(spec: str) -> Metric:
    """The function of ``path/to/file.py:function``, called as ``function(outputs, labels) -> float``.

    ``outputs`` is a list with a dictionary of arrays by output name for each item, ``labels`` the list of labels
    as they were read; higher is better. All outputs are kept in memory. The function is called again on
    resamples for the interval; where it raises on one, there is no interval.

    Raises:
        EvaluationError: there is no such file or function, the file cannot be imported, or (while scoring)
            the function raises or gives no finite number.
    """
    function = _load(spec)

    def total(kept: list[tuple[dict[str, Array], Any]]) -> float:
        try:
            value = float(function([outputs for outputs, _ in kept], [label for _, label in kept]))
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1].lineno
            raise EvaluationError(f"--metric {spec}: {type(error).__name__}: {error} (line {line})"[:500]) from error
        if not math.isfinite(value):
            raise EvaluationError(f"--metric {spec}: the function gave {value}, a finite number is needed")
        return value

    return Metric(spec, "any", True, "number", _measure, total, sums=False, resamples=_FEW)


def _measure(item: Item, pieces: Sequence[Outputs]) -> tuple[dict[str, Array], Any]:
    return joined(pieces), item.label


def _load(spec: str) -> Callable[..., Any]:
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise EvaluationError(f"--metric {spec}: no such file: {path}")
    found = spec_from_file_location(f"edgebig_metric_{path.stem}", path)
    if found is None or found.loader is None:
        raise EvaluationError(f"--metric {spec}: {path} is not a Python file: its name ends in .py")
    module = module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise EvaluationError(f"--metric {spec}: {type(error).__name__}: {error}"[:500]) from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = ", ".join(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise EvaluationError(f"--metric {spec}: no function {name!r} in {path}: it has {functions or 'none'}")
    typed: Callable[..., Any] = function
    return typed
