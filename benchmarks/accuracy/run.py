"""All benchmarks of accuracy, one after the other, each in a process of its own: what quantization costs beside peers.

    python benchmarks/accuracy/run.py [--quick] [--json] [--only minilm,speech]

Prints the tables of each, or with --json one JSON object with each benchmark's under its name. Arguments of a single
benchmark are given to that one's own script. A benchmark that fails is named, and the others go on; the exit code is
then 1. Figures that miss their limit change no exit code: the tables say so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.figures import say
from benchmarks.compile import sides

HERE = Path(__file__).resolve().parent
BENCHMARKS = ("minilm", "vision", "speech", "translation", "digits", "llama")
_QUICK: Mapping[str, Sequence[str]] = {"llama": ("--steps", "40", "--windows", "32")}
"""What stands for --quick where a benchmark has other options."""


def main() -> int:
    """Runs them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="shows that all works")
    parser.add_argument("--only", help=f"some of {','.join(BENCHMARKS)}")
    asked = parser.parse_args()
    chosen = asked.only.split(",") if asked.only else [n for n in BENCHMARKS if (HERE / f"{n}.py").is_file()]
    unknown = sorted(set(chosen) - set(BENCHMARKS))
    if unknown:
        parser.error(f"--only: no benchmark {unknown[0]!r}: choose of {', '.join(BENCHMARKS)}")
    found: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for name in chosen:
        began = time.monotonic()
        say(f"benchmark {name}")
        done = run(name, quick=asked.quick, as_json=asked.json)
        if done.returncode != 0:
            failures[name] = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        elif asked.json:
            found[name] = json.loads(done.stdout.splitlines()[-1])
        else:
            print(f"{done.stdout}\n({name}: {time.monotonic() - began:.0f} s)\n", flush=True)
    if asked.json:
        print(json.dumps({"benchmarks": found, "failures": failures}))
    for name, why in failures.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def run(name: str, *, quick: bool, as_json: bool) -> subprocess.CompletedProcess[str]:
    """One benchmark, whose tables and progress are captured."""
    options = [*(_QUICK.get(name, ("--quick",)) if quick else ()), *(("--json",) if as_json else ())]
    command = [sys.executable, str(HERE / f"{name}.py"), *options]
    env = {**os.environ, **sides.environment()}
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
