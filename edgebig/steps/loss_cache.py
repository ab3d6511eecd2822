"""Losses of single groups of layers that earlier searches measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from edgebig.cache import CacheFile

Losses = dict[str, dict[str, float]]


@contextmanager
def known_losses(file: CacheFile | None) -> Iterator[Losses]:
    """The losses that are known; what is added is kept at the end, and at an interrupt too."""
    found = _read(file)
    before = json.dumps(found)
    try:
        yield found
    finally:
        text = json.dumps(found)
        if file is not None and text != before:

            def write(stream: BinaryIO) -> None:
                stream.write(text.encode())

            file.write(write)


def _read(file: CacheFile | None) -> Losses:
    path = file.read() if file is not None else None
    if file is None or path is None:
        return {}
    try:
        data = json.loads(path.read_bytes())
        return {str(g): {str(f): float(v) for f, v in row.items()} for g, row in data.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        file.remove()
        return {}
