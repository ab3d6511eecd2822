"""The JSON Schemas that ship with edgebig, and a reader of them: the subset of JSON Schema 2020-12 that they use.

Schemas are the contract with programs in other languages. That edgebig checks by the same file keeps both alike;
:mod:`edgebig.quick_check` says yes to the usual manifest before, and tests hold it to the file.
Standard library only, since whatever runs a bundle checks its manifest first.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent / "schemas"

Schema = Mapping[str, Any]

KEYWORDS = {
    *("$ref", "const", "enum", "type", "anyOf", "required", "properties", "additionalProperties", "propertyNames"),
    *("minProperties", "items", "pattern", "minLength", "minimum"),
}
"""What :func:`mismatch` checks. ``default``, ``title`` and ``description`` are for people."""

_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "object": (lambda v: isinstance(v, dict), "an object"),
    "array": (lambda v: isinstance(v, list), "an array"),
    "string": (lambda v: isinstance(v, str), "a string"),
    "integer": (lambda v: type(v) is int, "a whole number"),
    "number": (lambda v: type(v) in (int, float) and abs(v) <= sys.float_info.max, "a number"),
    "boolean": (lambda v: isinstance(v, bool), "true or false"),
    "null": (lambda v: v is None, "null"),
}


def schema_text(name: str) -> str:
    """The text of the schema of that name (``manifest-2``)."""
    return (_FOLDER / f"{name}.json").read_text(encoding="utf-8")


@cache
def load_schema(name: str) -> Schema:
    """The schema of that name."""
    schema: Schema = json.loads(schema_text(name))
    return schema


def mismatch(value: Any, schema: Schema) -> str | None:
    """The first thing in ``value`` that the schema does not allow, for people; ``None`` where all is well.

    Stricter than JSON Schema in two things: 2.0 is no whole number, and a number beyond float64's range is none.

    Returns:
        For example ``parts.model.opset must be a whole number, found "17"``.
    """
    return _mismatch(value, schema, schema, "")


def _mismatch(value: Any, schema: Schema, root: Schema, where: str) -> str | None:
    if "$ref" in schema:
        return _mismatch(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
    if not _value_fits(value, schema, root, where):
        return f"{where or 'it'} must be {_expected(schema, root)}, found {_shown(value)}"
    if isinstance(value, dict):
        return _in_object(value, schema, root, where)
    if isinstance(value, list) and "items" in schema:
        found = (_mismatch(item, schema["items"], root, f"{where}[{i}]") for i, item in enumerate(value))
        return next(filter(None, found), None)
    return None


def _value_fits(value: Any, schema: Schema, root: Schema, where: str) -> bool:
    if "anyOf" in schema:
        return any(_mismatch(value, one, root, where) is None for one in schema["anyOf"])
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if allowed is not None:
        return any(type(value) is type(one) and value == one for one in allowed)
    types = _types(schema)
    if types and not any(_TYPES[name][0](value) for name in types):
        return False
    if isinstance(value, str):
        pattern = schema.get("pattern")
        long_enough: bool = len(value) >= schema.get("minLength", 0)
        return long_enough and (pattern is None or re.search(pattern, value) is not None)
    if isinstance(value, dict):
        return bool(len(value) >= schema.get("minProperties", 0))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return bool(value >= schema.get("minimum", -math.inf))
    return True


def _in_object(value: Mapping[str, Any], schema: Schema, root: Schema, where: str) -> str | None:
    lacks = [key for key in schema.get("required", ()) if key not in value]
    if lacks:
        return f"{where or 'it'} lacks {lacks[0]}"
    named, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, item in value.items():
        path = f"{where}.{key}" if where else key
        if "propertyNames" in schema:
            found = _mismatch(key, schema["propertyNames"], root, f"a key of {where}")
            if found is not None:
                return found
        if key not in named and others is False:
            return f"{where or 'it'} has no field {_shown(key)}"
        inner = named.get(key, others)
        found = None if inner is True else _mismatch(item, inner, root, path)
        if found is not None:
            return found
    return None


def _types(schema: Schema) -> list[str]:
    kind = schema.get("type", [])
    return [kind] if isinstance(kind, str) else list(kind)


def _expected(schema: Schema, root: Schema) -> str:
    if "$ref" in schema:
        return _expected(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "title" in schema:
        return str(schema["title"])
    if "anyOf" in schema:
        return " or ".join(_expected(one, root) for one in schema["anyOf"])
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if allowed is not None:
        return " or ".join(_shown(one) for one in allowed)
    kinds = " or ".join(_TYPES[name][1] for name in _types(schema))
    if "pattern" in schema:
        return f"{kinds} of the form {schema['pattern']}"
    if schema.get("minLength") or schema.get("minProperties"):
        return f"{kinds} that is not empty"
    return f"{kinds} of {schema['minimum']} or more" if "minimum" in schema else kinds


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
