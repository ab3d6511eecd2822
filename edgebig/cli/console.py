"""What the commands print with: one JSON object, tables, sizes, and a guard of standard output."""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one JSON object. A number that JSON lacks becomes a string: ``Infinity``, ``-Infinity`` or ``NaN``."""
    click.echo(json.dumps(finite(value), indent=2, allow_nan=False))


def finite(value: Any) -> Any:
    """Plain data with numbers that JSON lacks as strings, as a bundle's manifest has them."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def warn(message: str) -> None:
    """Prints one line on standard error."""
    click.echo(f"edgebig: warning: {' '.join(message.split())}", err=True)


def size_text(count: float) -> str:
    """Bytes for people, in powers of ten: ``22.1 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("the last unit returns")


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: int = 0) -> list[str]:
    """Lines with the columns below each other, those numbered in ``right`` set to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return lines


@contextmanager
def guarded_stdout() -> Iterator[TextIO]:
    """Gives the real standard output; whatever else is written to it meanwhile goes to standard error.

    It works on the file descriptor, because engine builders print from C++.
    """
    real = sys.stdout
    real.flush()
    kept = os.dup(1)
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding=real.encoding, errors="replace") if _is_fd_1(real) else real
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield out
    finally:
        sys.stdout = real
        _flush_c()
        os.dup2(kept, 1)
        os.close(kept)
        if out is not real:
            _close(out)


def _is_fd_1(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 1
    except (OSError, ValueError):  # a test's or a notebook's stream
        return False


def _flush_c() -> None:
    """C's buffers would else be written to the restored descriptor when the process ends."""
    try:
        ctypes.CDLL(None).fflush(None)
    except (OSError, AttributeError, TypeError):
        return


def _close(stream: TextIO) -> None:
    try:
        stream.close()
    except BrokenPipeError:  # nobody reads any more; the caller's next line notices it too
        return
