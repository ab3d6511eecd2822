"""The cache saves time and nothing else: where it cannot be used, everything goes on without it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from edgebig import cache
from edgebig.cache import CacheFile, cache_folder, fingerprint, key_of
from edgebig.device.store import engines_folder


def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEBIG_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    for off in ("off", ""):
        monkeypatch.setenv("EDGEBIG_CACHE", off)
        assert cache_folder() is None
    monkeypatch.delenv("EDGEBIG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "edgebig"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "edgebig"


def test_a_user_without_a_home_has_no_cache_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``docker run --user 12345`` gives one where HOME is not set."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("EDGEBIG_CACHE", "EDGEBIG_ENGINES", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert cache_folder() is None
    assert engines_folder() == Path("/.cache/edgebig/engines")


def test_keys_tell_parts_apart() -> None:
    assert key_of(["ab", "c"]) == key_of([b"ab", "c"]) != key_of(["a", "bc"])
    assert key_of([]) != key_of([""])


def test_a_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.npy").write_bytes(b"1")
    prints = [fingerprint(folder), fingerprint(folder / "deep" / "a.npy")]
    assert prints == [fingerprint(folder), fingerprint(folder / "deep" / "a.npy")]
    (folder / "b.npy").write_bytes(b"2")
    prints.append(fingerprint(folder))
    (folder / "b.npy").write_bytes(b"22")
    prints.append(fingerprint(folder))
    os.utime(folder / "b.npy", ns=(0, 5))
    prints.append(fingerprint(folder))
    (folder / "b.npy").rename(folder / "c.npy")
    prints.append(fingerprint(folder))
    assert len(set(prints)) == 6


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    file = CacheFile(tmp_path / "deep" / "er", "a")
    assert file.read() is None
    file.write(lambda stream: stream.write(b"one") and None)
    path = file.read()
    assert path is not None and path.read_bytes() == b"one"

    def breaks(stream: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file.write(breaks)
    assert path.read_bytes() == b"one" and list(path.parent.iterdir()) == [path]
    file.remove()
    file.remove()
    assert file.read() is None


def test_the_files_unused_for_longest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_LIMIT", 250)
    for age, name in enumerate("abc"):
        CacheFile(tmp_path, name).write(lambda stream: stream.write(bytes(100)) and None)
        os.utime(tmp_path / name, (age, age)) if name != "c" else None
    assert {f.name for f in tmp_path.iterdir()} == {"b", "c"}
    assert CacheFile(tmp_path, "b").read() is not None  # now the one used last
    os.utime(tmp_path / "c", (5, 5))
    CacheFile(tmp_path, "d").write(lambda stream: stream.write(bytes(100)) and None)
    assert {f.name for f in tmp_path.iterdir()} == {"b", "d"}
    CacheFile(tmp_path, "huge").write(lambda stream: stream.write(bytes(1000)) and None)
    assert {f.name for f in tmp_path.iterdir()} == {"huge"}


def test_a_folder_that_cannot_be_used_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    file = CacheFile(tmp_path / "file", "a")
    file.write(lambda stream: stream.write(b"x") and None)
    assert file.read() is None
    file.remove()
    (tmp_path / "taken" / "x").mkdir(parents=True)
    folder = CacheFile(tmp_path, "taken")
    folder.write(lambda stream: stream.write(b"x") and None)
    folder.remove()
    assert (tmp_path / "taken" / "x").is_dir()
    assert not list(tmp_path.glob("*.partial"))


def test_a_full_disk_is_passed_over(tmp_path: Path) -> None:
    def full(stream: object) -> None:
        raise OSError(28, "No space left on device")

    file = CacheFile(tmp_path, "a")
    file.write(full)
    assert file.read() is None and not list(tmp_path.iterdir())
