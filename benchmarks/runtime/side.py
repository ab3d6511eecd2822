"""One side in a process of its own: python side.py WHAT SIDE BUNDLE [NUMBER]; prints a JSON object.

SIDE is edgebig (`edgebig.load` and `session.run`) or ort (ONNX Runtime's own session on the same graph, opened with
the same options). WHAT is load (seconds to the first result, the packages imported before), memory (resident bytes
that the loaded model adds to a process with the side's packages), calls (resident bytes after NUMBER calls over those
after 1,000) or import (seconds of processor time that `import edgebig.runtime` takes).
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

Feeds = dict[str, np.ndarray[Any, Any]]


def main() -> None:
    """Measures one figure of one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "memory", "calls", "import"])
    parser.add_argument("side", choices=["edgebig", "ort"])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("number", type=int, nargs="?", default=0)
    asked = parser.parse_args()
    if asked.what == "import":
        print(json.dumps({"seconds": import_seconds()}))
        return
    import onnxruntime  # noqa: F401  both sides need it, and neither is charged with its import

    if asked.side == "edgebig":
        import edgebig.loading
        import edgebig.runtime  # noqa: F401
    feeds, graph = feeds_for(asked.bundle), graph_of(asked.bundle)
    gc.collect()  # else the imports decide on which side the next collection falls
    before = resident()
    start = time.perf_counter()
    run = opened(asked.side, asked.bundle, graph)
    run(feeds)
    seconds = time.perf_counter() - start
    if asked.what == "load":
        print(json.dumps({"seconds": seconds}))
    elif asked.what == "memory":
        for _ in range(10):
            run(feeds)
        print(json.dumps({"bytes": resident() - before}))
    else:
        for _ in range(1_000):
            run(feeds)
        early = resident()
        for _ in range(asked.number - 1_000):
            run(feeds)
        print(json.dumps({"bytes": resident() - early}))


def opened(side: str, bundle: Path, graph: Path) -> Callable[[Feeds], Any]:
    """A loaded model, on one thread."""
    if side == "edgebig":
        import edgebig

        return edgebig.load(bundle, threads=1).run
    session = bare(graph, threads=1)
    return lambda feeds: session.run(None, feeds)


def bare(graph: Path, threads: int | None = None) -> Any:
    """ONNX Runtime's session with the options that edgebig opens it with."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    disabled = ["SkipLayerNormFusion"]
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)


def graph_of(bundle: Path) -> Path:
    """The graph that edgebig runs on this CPU."""
    part = next(iter(json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["parts"].values()))
    return bundle / (part["engines"][0]["path"] if part["engines"] else part["graph"])


def feeds_for(bundle: Path) -> Feeds:
    """Random numbers, ones for integers, in the shapes that the bundle was compiled for."""
    part = next(iter(json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["parts"].values()))
    rng, feeds = np.random.default_rng(0), {}
    for spec in part["inputs"]:
        sizes = part["profiles"].get(spec["name"], {}).get("opt", spec["shape"])
        shape = [size if isinstance(size, int) else 1 for size in sizes]
        is_float = spec["dtype"].startswith("float")
        feeds[spec["name"]] = (rng.random(shape) if is_float else np.ones(shape)).astype(spec["dtype"])
    return feeds


def resident() -> int:
    """Bytes of this process in main memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def import_seconds() -> float:
    """Processor time of the importing thread: NumPy's idle threads would count too, which spin for a while."""
    start = time.thread_time()
    import edgebig.runtime  # noqa: F401

    return time.thread_time() - start


if __name__ == "__main__":
    main()
