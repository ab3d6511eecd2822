"""A quick yes to a manifest that fits its schema, for that is what nearly every load meets.

:func:`edgebig.schema.mismatch` reads the schema, compiles its patterns and walks through both; that takes as long as
ONNX Runtime takes to open a small model. What is here says yes to the same manifests, in a twentieth of the time, and
nothing to others, not even why: those are for ``mismatch`` to judge. ``tests/test_quick_check.py`` holds both together.
Standard library only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Set
from typing import Any

_HEX = "0123456789abcdef"
_NO_STEPS = frozenset(("", ".", ".."))
_GREATEST = sys.float_info.max
_NO_NUMBERS = frozenset(("Infinity", "-Infinity", "NaN"))
_KINDS = frozenset(("host", "ahead", "on-device"))
_DTYPES = frozenset(
    [f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16, 32, 64)]
    + ["bool", "float16", "float32", "float64", "complex64", "complex128", "string", "bfloat16"]
    + ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn"]
)
_WHOLE = frozenset(
    [
        "schema_version",
        "name",
        "precision",
        "target",
        "recipe",
        "source",
        "parts",
        "stages",
        "versions",
        "created",
        "files",
    ]
)
_STAGE = frozenset(["name", "seconds", "peak_memory_bytes", "notes", "declined"])
_SHAPES = frozenset(("min", "opt", "max"))
_PART_NEEDS = frozenset(["inputs", "outputs", "graph", "opset"])
_PART = _PART_NEEDS.union(
    [
        "quantized",
        "precision",
        "engines",
        "profiles",
        "more_profiles",
        "original",
        "golden",
        "calibration",
        "similarity",
        "sizes",
    ]
)
_ENGINE_NEEDS = frozenset(["path", "kind", "version", "hardware"])
_ENGINE = _ENGINE_NEEDS.union(
    ["profiles", "version_compatible", "hardware_compatible", "dla", "stripped", "weight_streaming", "built"]
)


def surely_fits(data: Any) -> bool:
    """Whether plain data certainly is a manifest of schema version 2.

    ``False`` where it is none, and where it is one that only a closer look shows to be one: with an unprintable
    character in a path that the schema allows, such as a no-break space.
    """
    return (
        _has(data, _WHOLE, _WHOLE)
        and type(data["schema_version"]) is int
        and data["schema_version"] == 2
        and type(data["name"]) is str
        and _is_text(data["precision"])
        and _is_target(data["target"])
        and type(data["recipe"]) is dict
        and type(data["source"]) is dict
        and _maps_to(data["parts"], _is_part)
        and len(data["parts"]) > 0
        and all(map(_is_file_name, data["parts"]))
        and _lists(data["stages"], _is_stage)
        and _maps_to(data["versions"], _is_string)
        and _is_time(data["created"])
        and _maps_to(data["files"], _is_file)
        and all(map(_is_path, data["files"]))
    )


def _is_target(value: Any) -> bool:
    return (
        type(value) is dict
        and type(value.get("name")) is str
        and type(value.get("engine")) is str
        and value["engine"] in _KINDS
        and ("compute_capability" not in value or type(value["compute_capability"]) in (str, type(None)))
    )


def _is_part(value: Any) -> bool:
    return (
        _has(value, _PART_NEEDS, _PART)
        and _lists(value["inputs"], _is_tensor)
        and _lists(value["outputs"], _is_tensor)
        and _is_path(value["graph"])
        and type(value["opset"]) is int
        and value["opset"] >= 1
        and type(value.get("quantized", False)) is bool
        and _maps_to(value.get("precision", {}), _is_size)
        and _lists(value.get("engines", []), _is_engine)
        and _maps_to(value.get("profiles", {}), _is_shapes)
        and _lists(value.get("more_profiles", []), _is_profile)
        and _is_path_or_null(value.get("original"))
        and _is_path_or_null(value.get("golden"))
        and _is_path_or_null(value.get("calibration"))
        and _maps_to(value.get("similarity", {}), _is_similarity)
        and _maps_to(value.get("sizes", {}), _is_size)
    )


def _is_engine(value: Any) -> bool:
    if not _has(value, _ENGINE_NEEDS, _ENGINE):
        return False
    dla, streaming = value.get("dla"), value.get("weight_streaming")
    return (
        _is_path(value["path"])
        and _is_text(value["kind"])
        and _is_text(value["version"])
        and _lists(value["hardware"], _is_text)
        and _lists(value.get("profiles", []), _is_profile)
        and type(value.get("version_compatible", False)) is bool
        and type(value.get("hardware_compatible", False)) is bool
        and (dla is None or _is_size(dla))
        and type(value.get("stripped", False)) is bool
        and (streaming is None or _is_size(streaming) or (type(streaming) is str and streaming == "auto"))
        and type(value.get("built")) in (dict, type(None))
    )


def _is_tensor(value: Any) -> bool:
    return (
        type(value) is dict
        and len(value) == 3
        and _is_text(value.get("name"))
        and type(value.get("dtype")) is str
        and value["dtype"] in _DTYPES
        and _lists(value.get("shape"), _is_dim)
    )


def _is_dim(value: Any) -> bool:
    return value is None or _is_size(value) or _is_text(value)


def _is_profile(value: Any) -> bool:
    return _maps_to(value, _is_shapes)


def _is_shapes(value: Any) -> bool:
    return _has(value, _SHAPES, _SHAPES) and all(_lists(sizes, _is_size) for sizes in value.values())


def _is_similarity(value: Any) -> bool:
    return _maps_to(value, _is_figure)


def _is_figure(value: Any) -> bool:
    return _is_number(value) or (type(value) is str and value in _NO_NUMBERS)


def _is_stage(value: Any) -> bool:
    return (
        _has(value, _STAGE, _STAGE)
        and _is_text(value["name"])
        and _is_number(value["seconds"])
        and value["seconds"] >= 0
        and _is_size(value["peak_memory_bytes"])
        and _lists(value["notes"], _is_string)
        and _lists(value["declined"], _is_string)
    )


def _is_file(value: Any) -> bool:
    if type(value) is not dict or len(value) != 2:
        return False
    digest = value.get("sha256")
    return _is_size(value.get("bytes")) and type(digest) is str and len(digest) == 64 and not digest.strip(_HEX)


def _is_path(value: Any) -> bool:
    return (
        type(value) is str
        and value.isprintable()
        and "\\" not in value
        and value != "manifest.json"
        and _NO_STEPS.isdisjoint(value.split("/"))
    )


def _is_file_name(value: Any) -> bool:
    return type(value) is str and value != "" and value.isprintable() and "/" not in value and "\\" not in value


def _is_path_or_null(value: Any) -> bool:
    return value is None or _is_path(value)


def _is_time(value: Any) -> bool:
    """Whether it begins as ``2026-01-31T23:59:59``."""
    if type(value) is not str or len(value) < 19:
        return False
    digits = value[:4] + value[5:7] + value[8:10] + value[11:13] + value[14:16] + value[17:19]
    marks = value[4] + value[7] + value[10] + value[13] + value[16]
    return marks == "--T::" and digits.isascii() and digits.isdigit()


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_GREATEST <= value <= _GREATEST


def _is_string(value: Any) -> bool:
    return type(value) is str


def _is_text(value: Any) -> bool:
    return type(value) is str and value != ""


def _has(value: Any, needs: Set[str], may: Set[str]) -> bool:
    return type(value) is dict and needs <= value.keys() <= may


def _maps_to(value: Any, check: Callable[[Any], bool]) -> bool:
    return type(value) is dict and all(map(check, value.values()))


def _lists(value: Any, check: Callable[[Any], bool]) -> bool:
    return type(value) is list and all(map(check, value))
