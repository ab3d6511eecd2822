"""Engines by content: what was built once of a graph, for the same GPUs, shapes and options, is not built again.

Nor is what the builder refused once tried again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from edgebig.build.flavour import Flavour
from edgebig.build.options import BuildOptions
from edgebig.build.profiles import Profile
from edgebig.bundle import hash_file
from edgebig.cache import CacheFile, cache_folder, key_of


class EngineCache:
    """One engine's place in the cache, which keeps the most recent ones up to a limit.

    An engine is code: it lies in the user's own cache folder, with the SHA-256 that it had when it was built.
    """

    def __init__(
        self,
        graph: Path,
        flavour: Flavour,
        profiles: Sequence[Mapping[str, Profile]],
        capabilities: Sequence[str],
        options: BuildOptions,
    ) -> None:
        folder = cache_folder()
        self._file: CacheFile | None = None
        self._refused: CacheFile | None = None
        if folder is not None:
            sets = [{name: asdict(profile) for name, profile in shapes.items()} for shapes in profiles]
            asked = [json.dumps(sets, sort_keys=True), json.dumps(list(capabilities)), options.key()]
            content = key_of([flavour.name, flavour.version, *asked, *_digests(graph)])
            self._file = CacheFile(folder / "engines", f"{content}.engine")
            self._refused = CacheFile(folder / "engines", f"{content}.refused")

    def read(self) -> bytes | None:
        """The engine; ``None`` where it was not built before, or its file is damaged."""
        path = None if self._file is None else self._file.read()
        if self._file is None or path is None:
            return None
        try:
            data = path.read_bytes()
        except OSError:
            return None
        digest, engine = data[:32], data[32:]
        if hashlib.sha256(engine).digest() != digest:
            self._file.remove()
            return None
        return engine

    def write(self, engine: bytes) -> None:
        """Keeps an engine for the next build."""
        if self._file is not None:

            def save(stream: BinaryIO) -> None:
                stream.write(hashlib.sha256(engine).digest())
                stream.write(engine)

            self._file.write(save)

    def refusal(self) -> str:
        """Why the builder refused this very request before; empty where it did not."""
        path = None if self._refused is None else self._refused.read()
        try:
            return "" if path is None else path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def write_refusal(self, why: str) -> None:
        """Keeps why the builder refused, for the next compile. Only for what the request itself brought about."""
        if self._refused is not None:
            self._refused.write(lambda stream: _write(stream, why.encode()))


def _write(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)


def _digests(graph: Path) -> Iterator[str]:
    """Of the graph and of the files with its large weights, whose names begin with its own."""
    for path in sorted(f for f in graph.parent.iterdir() if f.name.startswith(graph.name)):
        yield f"{path.name} {hash_file(path).sha256}"
