"""The fields of a plan's file, and what each may hold: a person may have edited it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.errors import RecipeError
from edgebig.quantize.assignment import LAYER_FORMATS
from edgebig.quantize.formats import FP8, INT8, UINT8

VERSION = 1

ACTIVATION_FORMATS = {f.name: f for f in (UINT8, INT8, FP8)}
"""Formats of activations by the name that the file has for them."""

_PLAN = {"edgebig_plan", "target", "precision", "repairs", "layers", "activations"}
_LAYER = {"node", "op", "format", "weight", "input", "reason", "measured"}
_ACTIVATION = {"format", "scale", "zero_point"}
_HUGE = 1e300
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), 1e27
"""Of a scale: float32 holds it, and 448 times it is no mask's constant."""


def read_plan(path: str | Path) -> dict[str, Any]:
    """The file's fields, each checked and present.

    Raises:
        RecipeError: no such file, or it is not a plan; the field is named.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the plan {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"the plan {path} is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("edgebig_plan") != VERSION:
        raise RecipeError(
            f'{path} is not a plan of version {VERSION} ("edgebig_plan"): '
            "take a bundle's evidence/PART.plan.json, or 'edgebig inspect BUNDLE --plan --json'"
        )
    where = f"the plan {path}"
    _refuse_unknown(where, data, _PLAN)
    for name in ("target", "precision"):
        _check(where, data, name, str, "text")
    if not data["precision"]:
        raise RecipeError(f"{where}: precision is empty: name what it is for, as int8")
    for name, kind, what in (
        ("layers", list, "a list"),
        ("activations", dict, "a mapping"),
        ("repairs", list, "a list"),
    ):
        _check(where, data, name, kind, what, kind())
    for index, row in enumerate(data["layers"]):
        _check_layer(f"{where}: layers[{index}]", row)
    twice = next((n for n, count in Counter(row["node"] for row in data["layers"]).items() if count > 1), None)
    if twice is not None:
        raise RecipeError(f"{where} names the layer {twice!r} twice: leave one of the lines out")
    for name, row in data["activations"].items():
        _check_activation(f"{where}: activations[{name!r}]", row)
    for index, line in enumerate(data["repairs"]):
        if not isinstance(line, str):
            raise RecipeError(f"{where}: repairs[{index}] must be text, found {line!r}")
    return data


def _check_layer(where: str, row: Any) -> None:
    if not isinstance(row, dict) or not isinstance(row.get("node"), str):
        raise RecipeError(f"{where} must be a mapping with the name of a node")
    where = f"{where} ({row['node']})"
    if row.get("format") not in LAYER_FORMATS:
        raise RecipeError(f"{where}: format must be one of {', '.join(LAYER_FORMATS)}, found {row.get('format')!r}")
    _refuse_unknown(where, row, _LAYER)
    for name in ("op", "weight", "input", "reason"):
        _check(where, row, name, str, "text", "")
    _check(where, row, "measured", dict, "a mapping", {})
    for name, value in row["measured"].items():
        if not _is_number(value) and value not in ("Infinity", "-Infinity", "NaN"):
            raise RecipeError(f"{where}: measured.{name} must be a number, found {value!r}")


def _check_activation(where: str, row: Any) -> None:
    if not isinstance(row, dict) or str(row.get("format")) not in ACTIVATION_FORMATS:
        raise RecipeError(f"{where}: format must be one of {', '.join(ACTIVATION_FORMATS)}")
    _refuse_unknown(where, row, _ACTIVATION)
    scale: Any = row.get("scale")
    zero: Any = row.get("zero_point")
    if not _is_number(scale) or not _SMALLEST <= scale <= _LARGEST:
        raise RecipeError(f"{where}: scale must be a number from {_SMALLEST:.3g} to {_LARGEST:.0e}, found {scale!r}")
    fmt = ACTIVATION_FORMATS[row["format"]]
    is_whole = isinstance(zero, int) and not isinstance(zero, bool)
    if not is_whole or (zero != 0 if fmt.symmetric else not fmt.low <= zero <= fmt.high):
        allowed = "0" if fmt.symmetric else f"a whole number from {fmt.low} to {fmt.high}"
        raise RecipeError(f"{where}: zero_point must be {allowed} in {fmt.name}, found {zero!r}")


def _check(where: str, row: dict[str, Any], name: str, kind: type, what: str, default: Any = None) -> None:
    """Puts the default in where the field is absent, and refuses another type."""
    found = row.setdefault(name, default)
    if not isinstance(found, kind):
        raise RecipeError(f"{where}: {name} must be {what}, found {found!r}"[:300])


def _refuse_unknown(where: str, row: Mapping[str, Any], known: set[str]) -> None:
    unknown = set(row) - known
    if unknown:
        raise RecipeError(f"{where}: unknown field {min(unknown)!r}: it may hold {', '.join(sorted(known))}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE
