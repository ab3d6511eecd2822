"""Sizes as people write them. Standard library only."""

from __future__ import annotations

import re

from edgebig.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str, what: str = "a size") -> int:
    """``2G``, ``512MiB`` or ``1.5g`` in bytes; K, M, G and T are powers of 1024, as trtexec and CUDA's tools have them.

    Args:
        text: a number of bytes, or of those units.
        what: names it in the error.

    Raises:
        UsageError: it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{what} is written 2G, 512M or a number of bytes, found {text!r}")
    return int(float(found[1]) * 1024 ** _POWERS[found[2].lower()])


def bytes_text(size: int) -> str:
    """Bytes as :func:`parse_bytes` takes them, in the largest unit that holds them exactly."""
    unit = next((u for u in "TGMK" if size and size % 1024 ** _POWERS[u.lower()] == 0), "")
    return f"{size // 1024 ** _POWERS[unit.lower()]}{unit}"
