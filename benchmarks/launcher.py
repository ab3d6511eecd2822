"""Runs one command and notes what it took: python -I launcher.py RESULT LOG COMMAND [ARGUMENT ...]

A process of its own, and one that imports little, since Linux counts the memory of the process that starts
a program into that program's peak (exec keeps the mark): a large parent would hide a small child.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def main() -> int:
    """Writes RESULT, a JSON object of ``seconds``, ``cpu_seconds``, ``maxrss`` (as getrusage gives it) and ``exit``."""
    result, log, *command = sys.argv[1:]
    with open(log, "wb") as stream:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    with open(result, "w", encoding="utf-8") as file:
        cpu = usage.ru_utime + usage.ru_stime
        json.dump({"seconds": seconds, "cpu_seconds": cpu, "maxrss": usage.ru_maxrss, "exit": code}, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
