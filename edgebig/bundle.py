"""Bundle: the artifact on disk. A directory of files and ``manifest.json``, which names, sizes and hashes each.

The layout is described in ``docs/bundle-format.md``. Reading one needs the standard library alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from edgebig.errors import BundleError, OutputError
from edgebig.manifest import MANIFEST, SCHEMA_VERSION, Engine, File, Manifest, Part, Stage, check_inside, read_json

__all__ = [
    "FINISHED",
    "MANIFEST",
    "PREPROCESS",
    "SCHEMA_VERSION",
    "Bundle",
    "BundleWriter",
    "Engine",
    "File",
    "Manifest",
    "Part",
    "Stage",
    "hash_file",
    "manifest_text",
    "sync",
]

PREPROCESS = "processor/preprocess.json"
FINISHED = "finished/"
"""Folder of the engines that a device built. ``edgebig finish`` may have been ended in it at any point: files there
that the manifest does not name are no part of the bundle."""
_CHUNK = 1 << 16  # freeing larger pieces would move the threshold from which glibc maps memory, and so an engine's size
_PARTIAL = ".partial"
_JUST_MADE = 10.0
"""Seconds in which a folder that a writer makes may not have its lock yet."""
_SHA256 = hashlib.sha256()
"""Of nothing yet: a copy spares each file OpenSSL's search for the algorithm."""

_NO_STEPS = frozenset(("", ".", ".."))
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Bundle:
    """A bundle on disk. No file of it is handed out before its hash was checked."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._checked: set[str] = set()
        self._outside: dict[str, Path] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Reads the manifest of the bundle at ``path``.

        Raises:
            BundleError: there is no bundle, or its manifest is damaged or of an unknown version.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise BundleError(f"a bundle is opened by its path, a str or a Path; found {type(path).__name__}")
        folder = Path(path)
        try:
            file = f"{folder}/{MANIFEST}"
            if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would be waited for
                raise BundleError(f"{file} is not a regular file: copy the bundle anew")
            with open(file, "rb", buffering=0) as stream:
                data = read_json(stream.readall().decode("utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            found = "no such folder"
            if folder.exists():
                found = "a folder without manifest.json" if folder.is_dir() else "a file"
            raise BundleError(f"{folder} is not a bundle ({found}): 'edgebig compile' makes one") from error
        except OSError as error:
            raise BundleError(f"cannot read {folder / MANIFEST}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a key given twice
            raise BundleError(f"{folder / MANIFEST} is not JSON: {error}: copy the bundle anew") from error
        try:
            return cls(folder, Manifest.from_json(data))
        except BundleError as error:
            raise BundleError(f"{folder}: {error}") from error

    def part(self, name: str | None = None) -> Part:
        """The part of that name; without a name the only one.

        Raises:
            BundleError: no such part, or several and no name.
        """
        parts = self.manifest.parts
        if name is None and len(parts) == 1:
            return next(iter(parts.values()))
        if name is None or name not in parts:
            asked = "name one of its parts" if name is None else f"it has no part {name!r}"
            raise BundleError(f"{self.path}: {asked}: {', '.join(parts)}")
        return parts[name]

    def file(self, name: str) -> Path:
        """The path of a file of the bundle, after its size and SHA-256 were checked (once for each file).

        Raises:
            BundleError: the manifest names no such file, or the file differs from it.
        """
        expected = self.manifest.files.get(name)
        if expected is None:
            raise BundleError(f"{self.path}: the manifest names no file {name!r}")
        path = self._outside.get(name, self.path / name)
        if name not in self._checked:
            self._check(path, name, expected)
            self._checked.add(name)
        return path

    def peek(self, name: str, size: int) -> bytes:
        """The first bytes of a file, unchecked: to say something of it, not to use it. Empty where it is not there."""
        try:
            with self._outside.get(name, self.path / name).open("rb") as stream:
                return stream.read(size)
        except OSError:
            return b""

    def with_engine(self, part: str, engine: Engine, path: Path, checked: File | None = None) -> Bundle:
        """This bundle with one more engine, the first of the part, that lies at ``path`` outside it.

        Its hash is taken now, and checked like every other when it is handed out; one that the caller has just checked
        (``checked``) is not taken again, which takes long for a large engine. Nothing is written.

        Raises:
            OSError: the engine cannot be read.
        """
        chosen = self.part(part)
        others = tuple(e for e in chosen.engines if e.path != engine.path)
        parts = {**self.manifest.parts, part: replace(chosen, engines=(engine, *others))}
        files = {**self.manifest.files, engine.path: checked or hash_file(path)}
        bundle = Bundle(self.path, replace(self.manifest, parts=parts, files=files))
        if checked is not None:
            bundle._checked.add(engine.path)
        bundle._outside = {**self._outside, engine.path: path}
        return bundle

    def verify(self) -> None:
        """Checks every file against the manifest.

        Raises:
            BundleError: a file is missing, differs, or is not in the manifest.
        """
        self._checked.clear()
        for name in self.manifest.files:
            self.file(name)
        extra = sorted(set(_files_below(self.path)) - set(self.manifest.files) - {MANIFEST})
        extra = [name for name in extra if not name.startswith(FINISHED)]
        if extra:
            raise BundleError(f"{self.path}: {extra[0]} is not in the manifest: copy the bundle anew")

    def _check(self, path: Path, name: str, expected: File) -> None:
        try:
            if name in self._outside or not _is_plain(self.path, name):
                if name not in self._outside and not path.resolve().is_relative_to(self.path.resolve()):
                    raise BundleError(f"{self.path}: {name} leads outside the bundle")
                if path.exists() and not path.is_file():
                    raise BundleError(f"{self.path}: {name} is not a regular file: copy the bundle anew")
            found = hash_file(path)
        except OSError as error:
            raise BundleError(f"{self.path}: {name}: {error.strerror}: copy the bundle anew") from error
        except RuntimeError as error:  # how Path.resolve reports a circle of links before Python 3.13
            raise BundleError(f"{self.path}: {name} is a link to itself: copy the bundle anew") from error
        if found != expected:
            raise BundleError(
                f"{self.path}: {name} is not the file of the manifest "
                f"({found.bytes} bytes, SHA-256 {found.sha256[:12]}…, "
                f"expected {expected.bytes} and {expected.sha256[:12]}…): copy the bundle anew"
            )


class BundleWriter:
    """Writes a bundle to a temporary folder beside its goal and renames it into place in one step.

    Used as a context: whatever ends it before :meth:`commit` leaves nothing behind. Errors of the
    file system (disk full, not writable) become :class:`OutputError`.
    """

    def __init__(self, out: str | os.PathLike[str], *, force: bool = False) -> None:
        """Refuses at once what could not be written at the end.

        Raises:
            OutputError: ``out`` exists and ``force`` is not set, or is no bundle that could be
                replaced, or its parent is missing or not writable.
        """
        import tempfile  # a megabyte, which what only reads bundles does without; as shutil below

        self.out = Path(os.path.abspath(out))
        self.force = force
        parent = self.out.parent
        if not parent.is_dir():
            raise OutputError(f"cannot write {out}: the folder {parent} does not exist")
        if os.path.lexists(self.out):
            self._refuse_to_replace(out)
        prefix = f".{self.out.name}."
        _remove_abandoned(parent, prefix)
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=_PARTIAL, dir=parent))
        except OSError as error:
            raise OutputError(f"cannot write {out}: {parent}: {error.strerror}") from error
        self._lock = _locked(self.folder)

    def _refuse_to_replace(self, out: str | os.PathLike[str]) -> None:
        if not self.force:
            raise OutputError(f"{out} exists: choose another name, or replace it with --force")
        try:
            is_empty = self.out.is_dir() and not any(self.out.iterdir())
        except OSError as error:
            raise OutputError(f"cannot write {out}: {error.strerror}") from error
        if self.out.is_symlink() or not (is_empty or _is_bundle(self.out)):
            raise OutputError(f"{out} is not a bundle: --force replaces nothing else, remove it by hand")

    def path(self, name: str) -> Path:
        """Where to write the file of that name; its folder is made."""
        check_inside(name)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, manifest: Manifest) -> Bundle:
        """Hashes and syncs every file, writes the manifest and renames the folder to its goal.

        Raises:
            OutputError: the disk is full, or the goal came into being meanwhile or cannot be replaced.
        """
        try:
            return self._commit(manifest)
        except OSError as error:
            raise self._cannot(error) from error

    def _commit(self, manifest: Manifest) -> Bundle:
        names = sorted(_files_below(self.folder))
        manifest = replace(manifest, files={name: hash_file(self.folder / name) for name in names})
        text = manifest_text(manifest)
        manifest = Manifest.from_json(json.loads(text))
        (self.folder / MANIFEST).write_text(text, encoding="utf-8")
        for name in [*names, MANIFEST]:
            sync(self.folder / name)
        for folder, _, _ in os.walk(self.folder):
            sync(Path(folder))
        os.chmod(self.folder, 0o777 & ~_umask())
        self._move_into_place()
        sync(self.out.parent)
        return Bundle(self.out, manifest)

    def _move_into_place(self) -> None:
        if not os.path.lexists(self.out):
            os.rename(self.folder, self.out)
            return
        self._refuse_to_replace(self.out)
        import shutil
        import tempfile

        old = Path(tempfile.mkdtemp(prefix=f".{self.out.name}.", suffix=".old", dir=self.out.parent))
        os.rename(self.out, old / "bundle")
        try:
            os.rename(self.folder, self.out)
        except BaseException:  # Ctrl-C too: the old bundle must not stay hidden
            os.rename(old / "bundle", self.out)
            os.rmdir(old)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import shutil

        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> OutputError:
        advice = ": free some space and compile again" if error.errno in _FULL else ""
        return OutputError(f"cannot write {self.out}: {error.strerror or error}{advice}")


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock while this process lives; ``None`` where it cannot be had."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody is at work there, or the file system locks no folders
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Removes what writers of the same bundle left that were killed: their locks went with them."""
    import shutil
    import time

    with suppress(OSError):
        for folder in parent.iterdir():
            is_old = folder.name.startswith(prefix) and folder.name.endswith(_PARTIAL) and folder.is_dir()
            if not is_old or time.time() - folder.stat().st_mtime < _JUST_MADE:
                continue
            lock = _locked(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def manifest_text(manifest: Manifest) -> str:
    """The text of ``manifest.json``.

    Raises:
        BundleError: it could not be read again.
    """
    text = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    Manifest.from_json(json.loads(text))
    return text


def hash_file(path: Path) -> File:
    """Size and SHA-256 of a file, read in pieces."""
    digest, size = _SHA256.copy(), 0
    with open(path, "rb", buffering=0) as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
            size += len(piece)
    return File(size, digest.hexdigest())


def _is_plain(folder: Path, name: str) -> bool:
    """Whether it is a regular file in the folder that no link leads to, and so cannot lie outside.

    A look at each step, where :meth:`Path.resolve` looks at those of the folder too. Says no where it is not sure.
    """
    steps, place = name.split("/"), os.fspath(folder)
    if os.name != "posix" or not _NO_STEPS.isdisjoint(steps):
        return False
    for step in steps:
        place = f"{place}/{step}"
        kind = stat.S_IFMT(os.lstat(place).st_mode)
        if kind == stat.S_IFLNK:
            return False
    return kind == stat.S_IFREG


def _is_bundle(folder: Path) -> bool:
    """Whether the folder's ``manifest.json`` is ours: web pages and browser extensions have one too."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"schema_version", "parts", "files"} <= data.keys()


def _files_below(folder: Path) -> Iterable[str]:
    for root, _, names in os.walk(folder):
        for name in names:
            yield (Path(root) / name).relative_to(folder).as_posix()


def sync(path: Path) -> None:
    """Makes a file's content, or renames in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
