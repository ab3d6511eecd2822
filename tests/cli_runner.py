"""Runs the command line as a person does, for the tests of edgebig/cli."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Result:
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output; anything beside it fails, as do NaN and Infinity."""
        value = json.loads(self.out, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
        assert isinstance(value, dict)
        return value


Run = Callable[..., Result]


def environment() -> dict[str, str]:
    """The environment of a process that finds this checkout, whatever its folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}


def run_process(*arguments: object, cwd: Path | None = None, **options: Any) -> Result:
    """``edgebig`` in a process of its own."""
    command = [sys.executable, "-m", "edgebig", *map(str, arguments)]
    options.setdefault("env", environment())
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120, **options)
    return Result(done.returncode, done.stdout, done.stderr)


def files_below(folder: Path) -> list[str]:
    """Every file and folder below, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
