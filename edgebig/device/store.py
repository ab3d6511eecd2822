"""Where finished engines of bundles lie that cannot be written: a folder of the user, checked by hash like a bundle."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from edgebig.bundle import MANIFEST, Bundle, Engine, File, hash_file, sync
from edgebig.compatibility import Machine, engine_fits
from edgebig.errors import BundleError, OutputError


def engines_folder() -> Path:
    """``EDGEBIG_ENGINES``, or ``edgebig/engines`` in the user's cache folder."""
    named = os.environ.get("EDGEBIG_ENGINES")
    if named:
        return Path(named)
    try:
        home = Path.home()
    except RuntimeError:  # a container's user that no table names; Docker sets HOME=/ for it
        home = Path("/")
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "edgebig" / "engines"


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file in one step, synced to the disk: afterwards there is the old one or the new one, whole.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    sync(path.parent)


class Store:
    """The finished engines of one bundle, keyed by its manifest's hash, the part, the device and TensorRT's version."""

    def __init__(self, bundle: Bundle) -> None:
        digest = hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
        self.folder = engines_folder() / digest[:32]
        self._bundle = bundle.path

    def make(self) -> None:
        """Makes the folder, such that nobody else writes there, whatever the user's mask.

        Raises:
            OSError: it cannot be made.
        """
        for folder in (self.folder.parent, self.folder):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o755)

    def is_safe(self) -> bool:
        """Whether nobody puts anything there but root, this user and whoever owns the bundle: engines are code."""
        try:
            inner, outer, bundle = (path.stat() for path in (self.folder, self.folder.parent, self._bundle))
        except OSError:
            return False
        others = stat.S_IWGRP | stat.S_IWOTH
        if inner.st_uid not in {0, os.geteuid(), bundle.st_uid} or inner.st_mode & others:
            return False
        return not outer.st_mode & others or bool(outer.st_mode & stat.S_ISVTX)

    def place(self, part: str, engine: Engine, device: str) -> Path:
        """Where a new engine goes: a name of its own, so that the old one stays until :meth:`add` records the new one.

        The name begins with a key of part, kind, version, capability, DLA core and device, which the record has too.
        """
        key = json.dumps([part, engine.kind, engine.version, engine.hardware, engine.dla, device])
        digest, own = (hashlib.sha256(text.encode()).hexdigest() for text in (key, engine.path))
        return self.folder / f"{digest[:24]}.{own[:8]}.engine"

    def find(self, part: str, machine: Machine) -> tuple[Engine, Path, File] | None:
        """The first engine that fits the machine and whose hash is the one that was recorded, where that is safe."""
        if not self.is_safe():
            return None
        for record in sorted(self.folder.glob("*.json")):
            try:
                data = json.loads(record.read_text(encoding="utf-8"))
                engine, expected = Engine.from_json(data["engine"]), File.from_json(data["file"])
                path = self.folder / _plain(data["name"])
                if data["part"] == part and not engine_fits(engine, machine) and hash_file(path) == expected:
                    return engine, path, expected
            except (OSError, ValueError, KeyError, TypeError):
                continue  # cut short or removed: it is built again
        return None

    def add(self, part: str, engine: Engine, path: Path) -> None:
        """Records an engine that was written to its place and has passed its check.

        Raises:
            OutputError: the folder cannot be written.
        """
        record = {"part": part, "name": path.name, "engine": asdict(engine), "file": asdict(hash_file(path))}
        place = path.with_name(f"{path.name.partition('.')[0]}.json")
        try:
            write_synced(place, json.dumps(record, indent=1).encode())
        except OSError as error:
            raise OutputError(f"cannot write {path.parent}: {error.strerror}") from error

    def clean(self) -> None:
        """Removes engines that no record names, and what else an interrupted finish left; the folder's lock is held."""
        named = set()
        for record in self.folder.glob("*.json"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                named.add(json.loads(record.read_text(encoding="utf-8"))["name"])
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            if file.name.startswith(".") or (file.suffix == ".engine" and file.name not in named):
                with suppress(OSError):
                    file.unlink()


def _plain(name: str) -> str:
    """A file's name alone, of a record that anything may have written."""
    if name != Path(name).name:
        raise ValueError(name)
    return name


def with_stored(bundle: Bundle, part: str, machine: Machine) -> Bundle:
    """The bundle, with the engine that the store holds for this machine before its own; itself where there is none.

    Raises:
        BundleError: the manifest cannot be read any more.
    """
    try:
        found = Store(bundle).find(part, machine)
    except OSError as error:
        raise BundleError(f"cannot read {bundle.path / MANIFEST}: {error.strerror}") from error
    return bundle if found is None else bundle.with_engine(part, *found)
