"""Wheels of which a test needs a file, without installing them."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def downloaded(
    package: str, version: str, folder: Path, *options: str, required: bool = True
) -> Iterator[zipfile.ZipFile]:
    """The wheel, opened, and gone afterwards; skips where that is impossible, and fails there where CI=true.

    Args:
        package, version: which one.
        folder: where it lies meanwhile, and no other wheel.
        options: further ones of ``pip download``.
        required: whether CI must have it; else it skips there too.
    """
    wanted = [*options, "--no-deps", "--only-binary=:all:", "-q", "-d", str(folder), f"{package}=={version}"]
    got = subprocess.run(
        [sys.executable, "-m", "pip", "download", *wanted], capture_output=True, text=True, timeout=300
    )
    if got.returncode != 0:
        reason = f"{package} {version} cannot be downloaded: {got.stderr.strip()[-300:]}"
        if required and os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        yield archive
    wheel.unlink()
