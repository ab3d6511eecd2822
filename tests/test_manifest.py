"""Manifests: read whole or refused."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import a_manifest, a_part, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebig.bundle import Bundle, Engine, File, Manifest, Part, Stage
from edgebig.errors import BundleError
from edgebig.spec import TensorSpec


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "graphs/../../x", "a\\b", "a\0b", "a\nb", "a//b", "./a", "a/", "", "manifest.json", "a\n"],
)
@pytest.mark.parametrize("field", ["files", "graph", "golden", "engine"])
def test_a_manifest_may_name_no_path_outside(tmp_path: Path, name: str, field: str) -> None:
    def tamper(data: dict[str, Any]) -> None:
        part = data["parts"]["model"]
        if field == "files":
            data["files"][name] = data["files"]["graphs/model.onnx"]
        elif field == "engine":
            part["engines"] = [{"path": name, "kind": "tensorrt", "version": "10", "hardware": ["8.9"]}]
        else:
            part[field] = name

    with pytest.raises(BundleError) as caught:
        open_after(tmp_path, tamper)
    assert f"a path inside the bundle, found {json.dumps(name)}" in str(caught.value)


def open_after(tmp_path: Path, tamper: Callable[[dict[str, Any]], object]) -> Bundle:
    write(tmp_path / "b")
    path = tmp_path / "b/manifest.json"
    data = json.loads(path.read_text())
    tamper(data)
    path.write_text(json.dumps(data))
    return Bundle.open(tmp_path / "b")


@pytest.mark.parametrize("name", ["../../x", "a/b", "a\\b", "a\n", "\0", ""])
def test_a_part_s_name_leads_nowhere(tmp_path: Path, name: str) -> None:
    """What a device builds is called after the part."""
    with pytest.raises(BundleError) as caught:
        open_after(tmp_path, lambda data: data.update(parts={name: data["parts"]["model"]}))
    assert "a key of parts must be a name without slash, backslash and control character" in str(caught.value)


@pytest.mark.parametrize("place", ["name", "file"])
def test_half_of_a_surrogate_pair_is_refused(tmp_path: Path, place: str) -> None:
    def tamper(data: dict[str, Any]) -> None:
        if place == "name":
            data["name"] = "\ud800"
        else:
            data["files"]["\udc80"] = data["files"]["graphs/model.onnx"]

    with pytest.raises(BundleError, match="is not JSON: .* surrogates not allowed: copy the bundle anew"):
        open_after(tmp_path, tamper)


def test_a_pair_and_other_escapes_are_taken(tmp_path: Path) -> None:
    assert open_after(tmp_path, lambda data: data.update(name="\u00fc \u001f \U0001f600")).manifest.name == "ü \x1f 😀"


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda d: d.pop("schema_version"), "has no schema_version: this is not a bundle of edgebig"),
        (lambda d: d.update(schema_version=3), "schema version 3, this edgebig reads 2: update edgebig"),
        (lambda d: d.update(schema_version=True), "schema version True, this edgebig reads 2"),
        (lambda d: d.update(schema_version="1"), "schema version '1', this edgebig reads 2"),
        (lambda d: d.pop("created"), "damaged: it lacks created$"),
        (lambda d: d.update(colour="red"), 'damaged: it has no field "colour"$'),
        (
            lambda d: d["parts"]["model"].update(graph=7),
            "damaged: parts.model.graph must be a path inside the bundle, found 7",
        ),
        (lambda d: d["parts"]["model"].update(graph="graphs/other.onnx"), "graphs/other.onnx but holds no hash"),
        (
            lambda d: d["parts"]["model"]["inputs"][0].update(shape=[1.5]),
            r"damaged: parts\.model\.inputs\[0\]\.shape\[0\] must be a size, .*, found 1\.5",
        ),
        (
            lambda d: d["files"]["graphs/model.onnx"].update(sha256=None),
            "damaged: .*sha256 must be a SHA-256 of 64 .*, found null",
        ),
        (lambda d: d.update(target="cpu"), 'damaged: target must be an object, found "cpu"'),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(
    tmp_path: Path, tamper: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        open_after(tmp_path, tamper)
    assert str(tmp_path / "b") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], r"manifest\.json is not JSON"),
        (lambda text: b"[" * 200_000, r"manifest\.json is not JSON"),
        (lambda text: b"\xff\xfe{}", r"manifest\.json is not JSON"),
        (lambda text: b"[1]", "this is not a bundle of edgebig"),
        (lambda text: text.replace(b'"schema_version": 2', b'"schema_version": 9, "schema_version": 2'), "a key twice"),
        (lambda text: text.replace(b'"seconds": 0.5', b'"seconds": NaN'), "NaN is no number of JSON"),
    ],
)
def test_a_manifest_that_is_no_manifest_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    write(tmp_path / "b")
    path = tmp_path / "b/manifest.json"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / "b")


def test_what_is_no_bundle_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"b is not a bundle \(no such folder\): 'edgebig compile' makes one"):
        Bundle.open(tmp_path / "b")
    with pytest.raises(BundleError, match=r"is not a bundle \(a folder without manifest\.json\)"):
        Bundle.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"file is not a bundle \(a file\)"):
        Bundle.open(tmp_path / "file")
    with pytest.raises(BundleError, match="^a bundle is opened by its path, a str or a Path; found NoneType$"):
        Bundle.open(None)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_manifest_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(BundleError, match=r"manifest\.json is not a regular file: copy the bundle anew"):
        Bundle.open(tmp_path)


def test_parts_are_found_by_name(tmp_path: Path) -> None:
    one = Bundle(tmp_path, a_manifest())
    assert one.part() == one.part("model") == a_part()
    with pytest.raises(BundleError, match="it has no part 'decoder': model$"):
        one.part("decoder")
    two = Bundle(tmp_path, a_manifest(parts={"encoder": a_part(opset=20), "decoder": a_part()}))
    assert two.part("encoder").opset == 20
    with pytest.raises(BundleError, match="name one of its parts: encoder, decoder$"):
        two.part()


# The manifest as JSON

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
PART_NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=8)
PATHS = st.lists(st.text("abc.é-", min_size=1, max_size=5).filter(lambda p: p not in (".", "..")), min_size=1).map(
    "/".join
)
FLOATS = st.floats(allow_nan=False)
SPECS = st.builds(
    TensorSpec,
    NAMES,
    st.sampled_from(["float32", "int64", "bfloat16"]),
    st.lists(st.integers(0, 2**40) | NAMES | st.none(), max_size=4).map(tuple),
)
SIZES = st.lists(st.integers(0), max_size=4)
PROFILES = st.dictionaries(NAMES, st.fixed_dictionaries({"min": SIZES, "opt": SIZES, "max": SIZES}), max_size=2)
ENGINES = st.builds(
    Engine,
    PATHS,
    NAMES,
    NAMES,
    st.lists(NAMES, max_size=2).map(tuple),
    profiles=st.lists(PROFILES, max_size=2).map(tuple),
    version_compatible=st.booleans(),
    hardware_compatible=st.booleans(),
    dla=st.none() | st.integers(0, 1),
    stripped=st.booleans(),
    weight_streaming=st.none() | st.just("auto") | st.integers(0),
    built=st.none() | st.dictionaries(NAMES, NAMES | st.integers(), max_size=2),
)
PARTS = st.builds(
    Part,
    inputs=st.lists(SPECS, max_size=2).map(tuple),
    outputs=st.lists(SPECS, max_size=2).map(tuple),
    graph=PATHS,
    opset=st.integers(1, 30),
    quantized=st.booleans(),
    precision=st.dictionaries(NAMES, st.integers(0)),
    engines=st.lists(ENGINES, max_size=2).map(tuple),
    profiles=PROFILES,
    more_profiles=st.lists(PROFILES, max_size=2).map(tuple),
    sizes=st.dictionaries(NAMES, st.integers(0), max_size=2),
    original=st.none() | PATHS,
    golden=st.none() | PATHS,
    similarity=st.dictionaries(NAMES, st.dictionaries(NAMES, FLOATS, max_size=2), max_size=2),
)
STAGES = st.builds(
    Stage, NAMES, st.floats(0, 1e9), st.integers(0), st.lists(NAMES).map(tuple), st.lists(NAMES).map(tuple)
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.dictionaries(PART_NAMES, PARTS, min_size=1, max_size=2),
    stages=st.lists(STAGES, max_size=2).map(tuple),
    data=st.data(),
)
def test_a_manifest_survives_json(parts: dict[str, Part], stages: tuple[Stage, ...], data: st.DataObject) -> None:
    sizes = st.builds(File, st.integers(0), st.text("0123456789abcdef", min_size=64, max_size=64))
    files = {name: data.draw(sizes) for part in parts.values() for name in part.files()}
    manifest = a_manifest(parts=parts, stages=stages, files=files)
    text = json.dumps(manifest.to_json(), allow_nan=False)
    assert Manifest.from_json(json.loads(text)) == manifest


def test_numbers_that_json_lacks_are_strings() -> None:
    similarity = {"y": {"snr": math.inf, "low": -math.inf, "odd": math.nan}}
    data = a_manifest(
        parts={"model": a_part(similarity=similarity)},
        files={"graphs/model.onnx": File(0, "0" * 64)},
        recipe={"max": math.inf},
    ).to_json()
    assert data["parts"]["model"]["similarity"] == {"y": {"snr": "Infinity", "low": "-Infinity", "odd": "NaN"}}
    found = Manifest.from_json(data)
    assert found.recipe == {"max": "Infinity"}
    read = found.parts["model"].similarity["y"]
    assert (read["snr"], read["low"]) == (math.inf, -math.inf) and math.isnan(read["odd"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@given(data=st.data())
def test_any_damage_is_a_bundle_error_or_harmless(data: st.DataObject) -> None:
    """One value anywhere in a manifest replaced by any JSON: it is read, or refused as damaged, and never crashes."""
    engine = Engine("engines/a", "onnxruntime", "1.0", ("x86_64",))
    part = a_part(engines=(engine,), similarity={"x": {"cosine": 1.0}}, golden="g.npz")
    files = {name: File(1, "0" * 64) for name in part.files()}
    found: Any = copy.deepcopy(json.loads(json.dumps(a_manifest(parts={"model": part}, files=files).to_json())))
    where = found
    while True:
        key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
        if not isinstance(where[key], (dict, list)) or not where[key] or data.draw(st.booleans()):
            break
        where = where[key]
    where[key] = data.draw(JSON)
    try:
        manifest = Manifest.from_json(found)
    except BundleError:
        return
    assert all(isinstance(name, str) for p in manifest.parts.values() for name in p.files())
