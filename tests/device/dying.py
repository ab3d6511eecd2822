"""A finish that ends without warning at each of its steps on the file system, as when the power fails.

``dying.py BUNDLE`` prints a line for each step, with what is left. Each finish is a fork that kills itself
before or after its n-th call of what changes files; its builds differ from each other by a byte, as TensorRT's do.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from machines import FACTS, L4, on_the_cpu

from edgebig.bundle import Bundle
from edgebig.device import finish as finish_module
from edgebig.device.finish import finish
from edgebig.device.store import with_stored

_CALLS = ("replace", "fsync", "unlink", "chmod", "open")


def main(path: Path) -> None:
    """Finishes anew again and again, until one gets to its end."""
    finish(path, facts=FACTS, opened=on_the_cpu)
    step, status = 0, -1
    while status != 0:
        step += 1
        child = os.fork()
        if child == 0:
            _dying(path, step)
        status = os.waitpid(child, 0)[1]
        print(json.dumps({"step": step, "killed": os.WIFSIGNALED(status), **_left(path)}), flush=True)


def _dying(path: Path, step: int) -> None:
    built = finish_module.build_engine
    finish_module.build_engine = lambda *given, **more: _other(built(*given, **more), step)
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in _CALLS:
        setattr(os, name, _ticking(getattr(os, name), tick))
    finish(path, force=True, facts=FACTS, opened=on_the_cpu)
    os._exit(0)


def _other(built: Any, step: int) -> Any:
    return replace(built, engine=built.engine + bytes([step % 256]))


def _ticking(real: Callable[..., Any], tick: Callable[[], None]) -> Callable[..., Any]:
    def call(*given: Any, **more: Any) -> Any:
        tick()
        result = real(*given, **more)
        tick()
        return result

    return call


def _left(path: Path) -> dict[str, int]:
    """How many engines the bundle has here, whole, and how many files lie where engines do."""
    whole = with_stored(Bundle.open(path), "model", L4)
    whole.verify()
    folders = (path / "finished", Path(os.environ["EDGEBIG_ENGINES"]))
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file() and f.parent.name != "timing"]
    return {"engines": len(whole.part().engines), "files": sum(f.suffix != ".json" for f in files)}


main(Path(sys.argv[1]))
