"""Bundles: written whole or not at all, and refused once anything in them differs."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebig.bundle import Bundle, BundleWriter, Engine, File, Manifest, Part, Stage
from edgebig.errors import BundleError, OutputError
from edgebig.spec import TensorSpec

GRAPH = b"the graph" * 100


def a_part(**changes: Any) -> Part:
    spec = TensorSpec("x", "float32", ("batch", 3))
    return replace(Part(inputs=(spec,), outputs=(spec,), graph="graphs/model.onnx", opset=19), **changes)


def a_manifest(**changes: Any) -> Manifest:
    plain = Manifest(
        name="tiny",
        precision="fp32",
        target={"name": "cpu", "engine": "host"},
        recipe={},
        source={"kind": "onnx"},
        parts={"model": a_part()},
        stages=(Stage("source", 0.5, 1024, ("read it",), ("left it",)),),
        versions={"onnx": "1.0"},
        created="2025-01-01T00:00:00+00:00",
    )
    return replace(plain, **changes)


def write(out: Path, graph: bytes = GRAPH, *, force: bool = False) -> Bundle:
    with BundleWriter(out, force=force) as writer:
        writer.path("graphs/model.onnx").write_bytes(graph)
        return writer.commit(a_manifest())


# Writing


def test_what_was_written_is_what_is_opened(tmp_path: Path) -> None:
    written = write(tmp_path / "b")
    opened = Bundle.open(tmp_path / "b")
    assert opened.manifest == written.manifest
    assert opened.manifest.parts == {"model": a_part()}
    digest = subprocess.run(["sha256sum", tmp_path / "b/graphs/model.onnx"], capture_output=True, text=True, check=True)
    assert opened.manifest.files == {"graphs/model.onnx": File(len(GRAPH), digest.stdout.split()[0])}
    assert opened.file("graphs/model.onnx").read_bytes() == GRAPH
    opened.verify()
    assert os.listdir(tmp_path) == ["b"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o777 & ~mask


def test_an_interrupted_writer_leaves_nothing_and_keeps_the_old_bundle(tmp_path: Path) -> None:
    write(tmp_path / "b")
    for out in (tmp_path / "b", tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt), BundleWriter(out, force=True) as writer:
            writer.path("graphs/model.onnx").write_bytes(b"half")
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["b"]
    assert Bundle.open(tmp_path / "b").file("graphs/model.onnx").read_bytes() == GRAPH


def test_a_manifest_that_names_no_written_file_is_not_committed(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match=r"names graphs/model\.onnx but holds no hash"),
        BundleWriter(tmp_path / "b") as writer,
    ):
        writer.commit(a_manifest())
    assert os.listdir(tmp_path) == []


def test_an_existing_bundle_is_replaced_by_force_alone(tmp_path: Path) -> None:
    out = tmp_path / "b"
    write(out)
    with pytest.raises(OutputError, match="b exists: choose another name, or replace it with --force"):
        write(out, b"new")
    write(out, b"new", force=True)
    assert Bundle.open(out).file("graphs/model.onnx").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["b"]


def test_force_fills_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", force=True).verify()


@pytest.mark.parametrize("kind", ["folder", "web page", "broken manifest", "file", "link to a bundle", "dangling link"])
def test_force_replaces_nothing_else(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("precious")
    elif "link" in kind:
        out.symlink_to(tmp_path / "goal")
        if kind == "link to a bundle":
            write(tmp_path / "goal")
    else:
        out.mkdir()
        (out / "precious").write_text("precious")
        if kind == "web page":
            (out / "manifest.json").write_text('{"name": "a page", "icons": []}')
        elif kind == "broken manifest":
            (out / "manifest.json").write_text('{"schema_version": 1, ')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="out is not a bundle: --force replaces nothing else, remove it by hand"):
        write(out, force=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_goal_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the folder .*/missing does not exist"):
        BundleWriter(tmp_path / "missing" / "b")
    with pytest.raises(OutputError, match="^cannot write /proc/b: /proc: "):
        BundleWriter("/proc/b")
    with pytest.raises(OutputError, match="File name too long"):
        BundleWriter(tmp_path / ("b" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_is_refused_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        BundleWriter(tmp_path / "b")


def test_a_goal_that_comes_into_being_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="b exists: choose another name"), BundleWriter(tmp_path / "b") as writer:
        writer.path("graphs/model.onnx").write_bytes(GRAPH)
        (tmp_path / "b").mkdir()
        writer.commit(a_manifest())
    assert os.listdir(tmp_path) == ["b"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path) -> None:
    write(small_disk / "old")
    with pytest.raises(OutputError) as caught:
        write(small_disk / "b", bytes(200_000))
    assert str(caught.value) == (
        f"cannot write {small_disk / 'b'}: No space left on device: free some space and compile again"
    )
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC
    with pytest.raises(OutputError, match="No space left on device"):
        write(small_disk / "b", bytes(60_000))  # room for the graph, none for the manifest
    assert os.listdir(small_disk) == ["old"]
    Bundle.open(small_disk / "old").verify()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//b", "./a", "a\\b", "", "manifest.json", "a\0b"])
def test_a_writer_takes_no_path_outside_and_no_odd_one(tmp_path: Path, name: str) -> None:
    with BundleWriter(tmp_path / "b") as writer, pytest.raises(BundleError, match="which a bundle may not hold"):
        writer.path(name)


# Reading what was tampered with


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link_outside(path: Path) -> None:
    outside = path.parents[2] / "same.onnx"
    shutil.move(path, outside)
    path.symlink_to(outside)


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (flip, "is not the file of the manifest"),
        (lambda path: path.write_bytes(GRAPH + b"\0"), r"is not the file of the manifest \(901 bytes"),
        (lambda path: path.write_bytes(b""), r"is not the file of the manifest \(0 bytes"),
        (Path.unlink, "No such file or directory: copy the bundle anew"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
        (make_pipe, "is not a regular file"),
        (link_outside, "leads outside the bundle"),
        (link_to_itself, "link|symbolic links"),
    ],
)
def test_a_file_that_differs_is_named_and_never_handed_out(
    tmp_path: Path, tamper: Callable[[Path], object], message: str
) -> None:
    write(tmp_path / "b")
    tamper(tmp_path / "b/graphs/model.onnx")
    bundle = Bundle.open(tmp_path / "b")
    for read in (lambda: bundle.file("graphs/model.onnx"), bundle.verify):
        with pytest.raises(BundleError, match=message) as caught:
            read()
        assert "graphs/model.onnx" in str(caught.value)


def test_verify_names_a_file_too_many_and_checks_again(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b")
    bundle.verify()
    flip(tmp_path / "b/graphs/model.onnx")
    with pytest.raises(BundleError, match=r"graphs/model\.onnx is not the file"):
        bundle.verify()
    (tmp_path / "b/graphs/model.onnx").write_bytes(GRAPH)
    (tmp_path / "b/engines").mkdir()
    (tmp_path / "b/engines/more.engine").write_bytes(b"?")
    with pytest.raises(BundleError, match=r"engines/more\.engine is not in the manifest"):
        bundle.verify()
    with pytest.raises(BundleError, match=r"the manifest names no file 'engines/more\.engine'"):
        bundle.file("engines/more.engine")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "graphs/../../x", "a\\b", "a\0b", "manifest.json"])
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
    assert f"the manifest names the path {name!r}, which a bundle may not hold" in str(caught.value)


def open_after(tmp_path: Path, tamper: Callable[[dict[str, Any]], object]) -> Bundle:
    write(tmp_path / "b")
    path = tmp_path / "b/manifest.json"
    data = json.loads(path.read_text())
    tamper(data)
    path.write_text(json.dumps(data))
    return Bundle.open(tmp_path / "b")


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda d: d.pop("schema_version"), "has no schema_version: this is not a bundle of edgebig"),
        (lambda d: d.update(schema_version=2), "schema version 2, this edgebig reads 1: update edgebig"),
        (lambda d: d.update(schema_version=True), "schema version True, this edgebig reads 1"),
        (lambda d: d.update(schema_version="1"), "schema version '1', this edgebig reads 1"),
        (lambda d: d.pop("created"), "damaged: .*created"),
        (lambda d: d.update(colour="red"), "damaged: .*colour"),
        (lambda d: d["parts"]["model"].update(graph=7), "damaged"),
        (lambda d: d["parts"]["model"].update(graph="graphs/other.onnx"), "graphs/other.onnx but holds no hash"),
        (lambda d: d["parts"]["model"]["inputs"][0].update(shape=[1.5]), "damaged: .*a shape holds sizes"),
        (lambda d: d["files"]["graphs/model.onnx"].update(sha256=None), "damaged: .*sha256 must be a str"),
        (lambda d: d.update(target="cpu"), "damaged: .*target must be a dict"),
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
        (lambda text: text.replace(b'"schema_version": 1', b'"schema_version": 9, "schema_version": 1'), "a key twice"),
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
ENGINES = st.builds(Engine, PATHS, NAMES, NAMES, st.lists(NAMES, max_size=2).map(tuple))
PARTS = st.builds(
    Part,
    inputs=st.lists(SPECS, max_size=2).map(tuple),
    outputs=st.lists(SPECS, max_size=2).map(tuple),
    graph=PATHS,
    opset=st.integers(1, 30),
    quantized=st.booleans(),
    precision=st.dictionaries(NAMES, st.integers(0)),
    engines=st.lists(ENGINES, max_size=2).map(tuple),
    profiles=st.dictionaries(NAMES, st.dictionaries(NAMES, st.lists(st.integers(1), max_size=4)), max_size=2),
    original=st.none() | PATHS,
    golden=st.none() | PATHS,
    similarity=st.dictionaries(NAMES, st.dictionaries(NAMES, FLOATS, max_size=2), max_size=2),
)
STAGES = st.builds(
    Stage, NAMES, FLOATS.filter(math.isfinite), st.integers(0), st.lists(NAMES).map(tuple), st.lists(NAMES).map(tuple)
)


@given(parts=st.dictionaries(NAMES, PARTS, max_size=2), stages=st.lists(STAGES, max_size=2).map(tuple), data=st.data())
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
        files={"graphs/model.onnx": File(0, "")},
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
