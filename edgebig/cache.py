"""Cache: results of finished or interrupted work by content, so that the next compile continues."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_LIMIT = 1 << 30
"""Bytes kept at most; the files unused for longest go first."""


def cache_folder() -> Path | None:
    """``EDGEBIG_CACHE`` (``off``: none), or ``edgebig`` in the user's cache folder; none where a user has no home."""
    named = os.environ.get("EDGEBIG_CACHE")
    if named is not None:
        return None if named in {"", "off"} else Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgebig"
    except RuntimeError:  # a container's user that no table names
        return None


def key_of(parts: Iterable[bytes | str]) -> str:
    """A name for what depends on all of these and on nothing else."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def fingerprint(path: Path) -> str:
    """Names, sizes and times of change of a file, or of all files in a folder."""
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    rows = [(str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return key_of([str(path.resolve()), *(repr(row) for row in rows)])


class CacheFile:
    """One file of the cache. A cache that cannot be written is passed over: it only saves time."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name

    def read(self) -> Path | None:
        """Its path, if it is there."""
        try:
            os.utime(self._path)
        except OSError:
            return None
        return self._path

    def write(self, save: Callable[[BinaryIO], None]) -> None:
        """Replaces it in one step, and drops the oldest files beyond the limit."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._path.parent, suffix=".partial", delete=False) as stream:
                temporary = Path(stream.name)
                try:
                    save(stream)  # type: ignore[arg-type]
                    stream.close()
                    temporary.replace(self._path)
                finally:
                    temporary.unlink(missing_ok=True)
            _prune(self._path.parent, keep=self._path)
        except OSError:
            return

    def remove(self) -> None:
        """Drops it: it turned out to be damaged."""
        with suppress(OSError):
            self._path.unlink()


def _prune(folder: Path, keep: Path) -> None:
    files = sorted((f for f in folder.iterdir() if f.is_file()), key=lambda f: f.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > _LIMIT and file != keep:
            file.unlink(missing_ok=True)
