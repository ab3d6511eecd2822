"""Runs a model at a fixed rate, as a robot's control loop does, and says whether it kept up.

    edgebig compile model.onnx -o model.bundle --target cpu
    python examples/control_loop.py model.bundle --hz 50 --seconds 5

Works on any bundle: the inputs are made from the session's specs, with 1 for each dynamic axis. They
are allocated once and refilled in place. A deadline is missed when a step ends after the next one should have begun.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgebig
from edgebig import Session
from edgebig.errors import EdgebigError


def main() -> None:
    """Runs the loop and prints latencies and misses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--hz", type=float, default=50.0, help="steps a second")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, help="threads that one run may use (default: the engine's choice)")
    arguments = parser.parse_args()
    if arguments.hz <= 0 or arguments.seconds <= 0:
        parser.error("--hz and --seconds must be above 0")
    with edgebig.load(arguments.bundle, threads=arguments.threads) as session:
        latencies, misses = loop(session, arguments.hz, arguments.seconds)
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    print(f"{len(latencies)} steps at {arguments.hz:g} Hz on {session.backend}")
    print(f"latency p50 {p50:.3f} ms, p99 {p99:.3f} ms, worst {max(latencies) * 1e3:.3f} ms")
    print(f"deadlines missed: {misses}")


def loop(session: Session, hz: float, seconds: float) -> tuple[list[float], int]:
    """Steps at ``hz`` for ``seconds``: the latency of each in seconds, and how many deadlines were missed."""
    inputs = {spec.name: allocate(spec.dtype, spec.shape) for spec in session.inputs}
    session.run(inputs)  # the first run allocates, so it is not timed
    period, latencies, misses = 1 / hz, [], 0
    step, steps = 0, max(1, round(hz * seconds))
    start = time.monotonic()
    while step < steps:
        # The time of a step counts from the start, so that small errors do not add up to drift.
        time.sleep(max(0.0, start + step * period - time.monotonic()))
        for array in inputs.values():
            if array.dtype.kind == "f":
                np.negative(array, out=array)  # a robot writes its sensors' new values here, in place
        began = time.perf_counter()
        session.run(inputs)
        latencies.append(time.perf_counter() - began)
        # Steps that should have begun by now are given up, and not run in a burst.
        late = max(0, int((time.monotonic() - start) / period) - step)
        misses += late
        step += 1 + late
    return latencies, misses


def allocate(dtype: str, shape: tuple[Any, ...]) -> NDArray[Any]:
    """Random numbers, or ones for integers (a valid index and a valid mask); dynamic axes are 1."""
    sizes = [n if isinstance(n, int) else 1 for n in shape]
    ones = np.ones(sizes, dtype=dtype)
    return np.random.default_rng(0).random(sizes).astype(dtype) if ones.dtype.kind == "f" else ones


if __name__ == "__main__":
    try:
        main()
    except EdgebigError as error:
        sys.exit(f"error: {error}")
