"""Bundles: written whole or not at all, and refused once anything in them differs."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from bundles import GRAPH, a_manifest, a_part, write

from edgebig.bundle import Bundle, BundleWriter, File, hash_file
from edgebig.errors import BundleError, OutputError

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


def test_what_a_killed_writer_left_goes_with_the_next_one_and_that_of_a_live_one_stays(tmp_path: Path) -> None:
    script = """if True:
        import sys, time
        from edgebig.bundle import BundleWriter
        with BundleWriter(sys.argv[1]) as writer:
            writer.path("graphs/model.onnx").write_bytes(bytes(1000))
            print("written", flush=True)
            time.sleep(600)
    """
    out = tmp_path / "b"
    writers = [subprocess.Popen([sys.executable, "-c", script, out], stdout=subprocess.PIPE) for _ in range(2)]
    for process in writers:
        assert process.stdout is not None and process.stdout.readline() == b"written\n"
    writers[0].kill()
    writers[0].communicate()
    left = sorted(tmp_path.iterdir())
    assert len(left) == 2
    for folder in left:
        os.utime(folder, (0, 0))
    write(out)
    (alive,) = (path for path in tmp_path.iterdir() if path != out)
    assert (alive / "graphs/model.onnx").stat().st_size == 1000
    writers[1].terminate()
    writers[1].communicate()
    os.utime(alive, (0, 0))
    (tmp_path / ".b.notes.partial").write_text("a file of somebody else")
    write(tmp_path / "c")
    assert alive.exists(), "another bundle's"
    write(out, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.notes.partial", "b", "c"]


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
    with BundleWriter(tmp_path / "b") as writer, pytest.raises(BundleError, match="a bundle may not hold the path"):
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


def link_folder_outside(path: Path) -> None:
    outside = path.parents[2] / "graphs"
    shutil.move(path.parent, outside)
    path.parent.symlink_to(outside)


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
        (link_folder_outside, "leads outside the bundle"),
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


def test_links_within_the_bundle_and_to_it_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "b")
    shutil.move(tmp_path / "b/graphs", tmp_path / "b/elsewhere")
    (tmp_path / "b/graphs").symlink_to("elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    for place in (tmp_path / "b", tmp_path / "link"):
        assert Bundle.open(place).file("graphs/model.onnx").read_bytes() == GRAPH


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 200_000])
def test_files_of_every_size_are_hashed_whole(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "x").write_bytes(content)
    assert hash_file(tmp_path / "x") == File(size, hashlib.sha256(content).hexdigest())


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
