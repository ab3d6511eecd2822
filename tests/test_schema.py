"""The manifest's JSON Schema: edgebig and jsonschema read it alike, and it fits what edgebig writes."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import a_manifest, a_part
from cli_runner import run_process
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tiny import mlp

import edgebig
from edgebig.bundle import Engine, File, Manifest
from edgebig.errors import BundleError
from edgebig.manifest import SCHEMA, SCHEMA_VERSION
from edgebig.schema import KEYWORDS, load_schema, mismatch, schema_text

VALIDATOR = Draft202012Validator(load_schema(SCHEMA))
NOTES = {"$schema", "$id", "$defs", "title", "description", "default"}


def whole() -> dict[str, Any]:
    """A manifest in which every field holds something."""
    shapes = {"x": {"min": [1, 3], "opt": [2, 3], "max": [8, 3]}}
    engine = Engine(
        *("engines/model.engine", "tensorrt", "10.3.0", ("8.7",)),
        profiles=(shapes,),
        version_compatible=True,
        hardware_compatible=True,
        dla=0,
        built={"device": "Orin"},
    )
    part = a_part(
        engines=(engine,),
        quantized=True,
        precision={"int8": 7},
        profiles=shapes,
        more_profiles=(shapes,),
        original="graphs/model.original.onnx",
        golden="evidence/golden.npz",
        calibration="calibration/model.json",
        similarity={"y": {"cosine": 1.0, "sqnr_db": math.inf}},
        sizes={"nodes": 3},
    )
    files = {name: File(5, "0" * 64) for name in part.files()}
    target = {"name": "agx-orin-64gb", "engine": "on-device", "compute_capability": "8.7"}
    plain: dict[str, Any] = json.loads(
        json.dumps(a_manifest(parts={"model": part}, files=files, target=target).to_json())
    )
    return plain


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value lies, but for what lies inside free information."""
    yield at
    if at in {("recipe",), ("source",)} or at[-1:] == ("built",):
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield from places(item, (*at, key))


def changed(data: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    data = copy.deepcopy(data)
    inner = data
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return data


def refuses(data: Any) -> bool:
    """What edgebig says; the schema alone must say the same, but for paths that ``files`` lacks."""
    try:
        Manifest.from_json(data)
    except BundleError as error:
        if "holds no hash" not in str(error):
            assert not VALIDATOR.is_valid(data), str(error)
        return True
    assert VALIDATOR.is_valid(data)
    return False


def test_the_schema_is_one_and_of_this_version() -> None:
    Draft202012Validator.check_schema(load_schema(SCHEMA))
    assert load_schema(SCHEMA)["properties"]["schema_version"] == {"const": SCHEMA_VERSION}
    assert mismatch(whole(), load_schema(SCHEMA)) is None
    assert not refuses(whole())


def test_it_uses_no_keyword_that_edgebig_does_not_check() -> None:
    used = set()

    def walk(schema: dict[str, Any]) -> None:
        used.update(schema)
        for key, value in schema.items():
            if key in {"properties", "$defs"}:
                for inner in value.values():
                    walk(inner)
            elif key in {"items", "propertyNames", "additionalProperties"} and isinstance(value, dict):
                walk(value)
            elif key == "anyOf":
                for inner in value:
                    walk(inner)

    walk(dict(load_schema(SCHEMA)))
    assert used - NOTES == KEYWORDS


def test_every_field_of_the_manifest_is_in_the_schema() -> None:
    """None that edgebig writes is missing, and none is named that it does not write."""
    data, definitions = whole(), load_schema(SCHEMA)["$defs"]
    part = data["parts"]["model"]
    engine = part["engines"][0]
    pairs = [
        (data, load_schema(SCHEMA)),
        (part, definitions["part"]),
        (engine, definitions["engine"]),
        (part["inputs"][0], definitions["tensor"]),
        (data["stages"][0], definitions["stage"]),
        (next(iter(data["files"].values())), definitions["file"]),
    ]
    for written, schema in pairs:
        assert set(written) == set(schema["properties"])
        assert schema["additionalProperties"] is False


@pytest.mark.parametrize("at", list(places(whole())), ids=lambda at: ".".join(map(str, at)) or "it")
def test_a_value_of_another_kind_is_refused_by_both(at: tuple[Any, ...]) -> None:
    """Of each value in a manifest; free information takes any object, and nothing else."""
    value = whole()
    for key in at:
        value = value[key]
    others = [None, True, 7, 1.5, "", "\0", [], {}, [1.5], {"\0": -1}, -1]
    verdicts = [refuses(changed(whole(), at, other)) for other in others]
    assert sum(verdicts) >= 6
    if isinstance(value, dict) and at not in {("target",), ("recipe",), ("source",), ("versions",)}:
        assert at[-1:] == ("built",) or refuses(changed(whole(), (*at, "colour"), "red"))


def test_a_field_that_is_missing_is_refused_by_both_unless_it_has_a_default() -> None:
    optional = set()
    for at in places(whole()):
        if at and isinstance(at[-1], str):
            data = changed(whole(), at, None)
            inner = data
            for key in at[:-1]:
                inner = inner[key]
            del inner[at[-1]]
            if not refuses(data):
                optional.add(at[-1])
    part, engine = (load_schema(SCHEMA)["$defs"][name]["properties"] for name in ("part", "engine"))
    defaults = {name for schema in (part, engine) for name, field in schema.items() if "default" in field}
    entries = {"onnx", "cosine", "sqnr_db", "int8", "nodes", "x", "y", "compute_capability"}
    assert optional == defaults | entries


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
).filter(lambda value: not (isinstance(value, float) and (value.is_integer() or math.isinf(value))))


@given(at=st.sampled_from(list(places(whole()))), value=JSON)
def test_any_value_anywhere_is_judged_alike(at: tuple[Any, ...], value: Any) -> None:
    def plain(item: Any) -> bool:  # where edgebig is stricter than JSON Schema
        if isinstance(item, float):
            return not item.is_integer() and math.isfinite(item)
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        return all(map(plain, inner))

    if plain(value):
        refuses(changed(whole(), at, value))


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (("parts",), {}, "parts must be an object that is not empty, found {}"),
        (("parts", "model", "opset"), 17.0, "parts.model.opset must be an ONNX opset, found 17.0"),
        (("parts", "model", "quantized"), 1, "parts.model.quantized must be true or false, found 1"),
        (("parts", "model", "golden"), 1, "parts.model.golden must be null or a path inside the bundle, found 1"),
        (("target", "engine"), "gpu", 'target.engine must be "host" or "ahead" or "on-device", found "gpu"'),
        (("parts", "model", "engines", 0, "dla"), -1, "parts.model.engines[0].dla must be a whole number or null of 0"),
        (
            ("files", "../x"),
            {"bytes": 1, "sha256": "0" * 64},
            'a key of files must be a path inside the bundle, found "../x"',
        ),
        (("stages", 0, "notes", 0), None, "stages[0].notes[0] must be a string, found null"),
        (("created",), "yesterday", "created must be a string of the form ^[0-9]"),
    ],
)
def test_what_is_wrong_is_said_in_words(at: tuple[Any, ...], value: Any, message: str) -> None:
    found = mismatch(changed(whole(), at, value), load_schema(SCHEMA))
    assert found is not None and found.startswith(message)


def test_what_compile_writes_fits(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    samples = [{"x": np.full((1, 8), i, np.float32)} for i in range(16)]
    edgebig.compile(tmp_path / "m.onnx", target="cpu", precision="int8", calibration=samples, out=tmp_path / "b")
    data = json.loads((tmp_path / "b/manifest.json").read_text(encoding="utf-8"))
    assert [error.message for error in VALIDATOR.iter_errors(data)] == []
    assert data["parts"]["model"]["quantized"] and data["parts"]["model"]["golden"]


def test_the_command_prints_it() -> None:
    for options in ([], ["--json"]):
        done = run_process("schema", *options)
        assert (done.code, done.err, done.out) == (0, "", schema_text(SCHEMA))
    assert done.json["$id"] == f"urn:edgebig:manifest:{SCHEMA_VERSION}"
