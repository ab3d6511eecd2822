"""What edgebig's session adds to ONNX Runtime's own: calls, loading, memory, jitter, threads, streams.

    python benchmarks/runtime/run.py [--json] [--only calls,load,memory,jitter,threads,stream] [--minutes 5]

Both sides run the same graph with the same options on this CPU, in turn in one process, or each in fresh processes
where memory and loading are measured. docs/benchmarks.md explains the figures. Shared memory is measured by shm.py,
GPUs by gpu.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import edgebig
from benchmarks.accuracy.figures import Figure, report, say
from benchmarks.common import machine
from benchmarks.runtime.models import fresh, make_bundles, street_video
from benchmarks.runtime.side import bare, feeds_for, graph_of

SIDE = Path(__file__).with_name("side.py")
_PACKAGES = ("numpy", "onnxruntime", "opencv-python-headless")
_MB = 1e6
Run = Callable[[], object]


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", default=",".join(FIGURES), help=f"of {','.join(FIGURES)}")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the loop at a fixed rate (5)")
    parser.add_argument("--million", type=int, default=1_000_000, help="calls after which memory is looked at")
    parser.add_argument("--runs", type=int, default=5, help="of sides in fresh processes (5)")
    asked = parser.parse_args()
    before, figures = machine(), []
    with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
        say("making bundles")
        bundles, missing = make_bundles(Path(folder))
        for name in asked.only.split(","):
            say(name)
            figures += FIGURES[name](bundles, asked, Path(folder))
    setup = {**before, "runs": str(asked.runs), "minutes": str(asked.minutes)}
    report("Runtime", figures, setup, _PACKAGES, missing, as_json=asked.json)
    return 0 if figures else 1


def calls(bundles: Mapping[str, Path], asked: argparse.Namespace, work: Path) -> list[Figure]:
    """Median time of a call over that of ONNX Runtime's own."""
    figures = [f for name in ("one node", "MNIST-sized") for f in calls_of(name, bundles[name])]
    return sorted(figures, key=lambda f: f.what, reverse=True)


def calls_of(name: str, bundle: Path) -> list[Figure]:
    """Both ways to call one model."""
    feeds, session, figures = feeds_for(bundle), bare(graph_of(bundle), threads=1), []
    with edgebig.load(bundle, threads=1) as ours:
        binding, theirs = ours.bind(), session.io_binding()
        for key, value in feeds.items():
            binding.inputs[key][...] = value
            theirs.bind_cpu_input(key, value)
        for spec in ours.outputs:
            theirs.bind_output(spec.name)
        compared: dict[str, dict[str, Run]] = {
            "session.run over ONNX Runtime's run": {
                "edgebig": lambda: ours.run(feeds),
                "ort": lambda: session.run(None, feeds),
            },
            "binding.run over run_with_iobinding": {
                "edgebig": binding.run,
                "ort": lambda: session.run_with_iobinding(theirs),
            },
        }
        for what, sides in compared.items():
            times = in_blocks(sides)
            note = ", ".join(f"{side} {seconds * 1e6:.2f} µs" for side, seconds in times.items())
            figures.append(Figure(f"{what}, median", name, times["edgebig"] / times["ort"], "<= 1.10", 3, note))
    return figures


def in_blocks(sides: Mapping[str, Run], blocks: int = 40, size: int = 500) -> dict[str, float]:
    """Median seconds of a call of each side, in blocks that take turns."""
    times: dict[str, list[int]] = {side: [] for side in sides}
    clock = time.perf_counter_ns
    for block in range(blocks + 1):
        for side, run in sides.items():
            found = []
            for _ in range(size):
                start = clock()
                run()
                found.append(clock() - start)
            if block:  # the first warms up
                times[side] += found
    return {side: median(found) / 1e9 for side, found in times.items()}


def load(bundles: Mapping[str, Path], asked: argparse.Namespace, work: Path) -> list[Figure]:
    """From opening to the first result; both processes have their packages imported."""
    figures = []
    for name, bundle in bundles.items():
        seconds: dict[str, list[float]] = {"edgebig": [], "ort": []}
        for _ in range(asked.runs + 1):
            for side, found in seconds.items():
                found.append(json.loads(fresh(SIDE, "load", side, bundle))["seconds"])
        ours, theirs = (median(found[1:]) for found in seconds.values())  # the first reads from the disk
        note = f"edgebig {ours * 1e3:.1f} ms, ort {theirs * 1e3:.1f} ms"
        figures.append(Figure("load to first result over a bare session", name, ours / theirs, "<= 1.10", 3, note))
    return figures


def memory(bundles: Mapping[str, Path], asked: argparse.Namespace, work: Path) -> list[Figure]:
    """What a session takes above a bare one; what a million calls add; what the import takes."""
    figures = []
    for name, bundle in bundles.items():
        found = {
            side: median(json.loads(fresh(SIDE, "memory", side, bundle))["bytes"] for _ in range(asked.runs))
            for side in ("edgebig", "ort")
        }
        note = f"edgebig {found['edgebig'] / _MB:.1f}, ort {found['ort'] / _MB:.1f}"
        more = (found["edgebig"] - found["ort"]) / _MB
        figures.append(Figure("resident memory of a session above a bare one, MB", name, more, "<= 5", 2, note))
    what = f"resident memory after {asked.million:,} calls above after 1,000, MB"
    for side, limit in (("edgebig", "<= 1"), ("ort", "")):
        grown = json.loads(fresh(SIDE, "calls", side, bundles["one node"], asked.million))["bytes"]
        figures.append(Figure(what, side, grown / _MB, limit, 3))
    took = median(json.loads(fresh(SIDE, "import", "edgebig", "."))["seconds"] for _ in range(asked.runs))
    figures.append(
        Figure("import edgebig.runtime, NumPy included, ms of processor time", "edgebig", took * 1e3, "<= 60", 1)
    )
    return figures


def jitter(bundles: Mapping[str, Path], asked: argparse.Namespace, work: Path) -> list[Figure]:
    """p99.9 over p50 of steps at 200 Hz; every step belongs to the other side than the one before."""
    bundle = bundles["MNIST-sized"]
    feeds, session = feeds_for(bundle), bare(graph_of(bundle), threads=1)
    with edgebig.load(bundle, threads=1) as ours:
        sides: dict[str, Run] = {"edgebig": lambda: ours.run(feeds), "ort": lambda: session.run(None, feeds)}
        times: dict[str, list[float]] = {side: [] for side in sides}
        period, order = 1 / 200, list(sides.items())
        for _, run in order:
            run()
        start = time.monotonic()
        for step in range(int(asked.minutes * 60 / period)):
            time.sleep(max(0.0, start + step * period - time.monotonic()))
            side, run = order[step % 2]
            began = time.perf_counter()
            run()
            times[side].append(time.perf_counter() - began)
    spread = {side: float(np.percentile(found, 99.9) / np.median(found)) for side, found in times.items()}
    note = f"edgebig {spread['edgebig']:.2f}, ort {spread['ort']:.2f}, {len(times['ort'])} steps each"
    ratio = spread["edgebig"] / spread["ort"]
    return [Figure("p99.9 / p50 at a fixed rate, over bare ONNX Runtime's", "MNIST-sized", ratio, "<= 1.05", 3, note)]


def threads(bundles: Mapping[str, Path], asked: argparse.Namespace, work: Path) -> list[Figure]:
    """Calls a second of eight threads over those of one, next to the same of bare ONNX Runtime."""
    chosen = [name for name in ("MNIST-sized", "SqueezeNet") if name in bundles]
    return [threads_of(name, bundles[name], asked.runs) for name in chosen]


def threads_of(name: str, bundle: Path, runs: int) -> Figure:
    """One model's figure."""
    feeds, session = feeds_for(bundle), bare(graph_of(bundle), threads=1)
    with edgebig.load(bundle, threads=1) as ours:
        sides: dict[str, Run] = {"edgebig": lambda: ours.run(feeds), "ort": lambda: session.run(None, feeds)}
        gains: dict[str, list[float]] = {side: [] for side in sides}
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(runs * 4):  # short and often: from second to second threads share cores otherwise
            for side, run in sides.items():
                rates[side].append(rate(run, 8, 0.4))
                gains[side].append(rates[side][-1] / rate(run, 1, 0.4))
    mine, theirs = median(gains["edgebig"]), median(gains["ort"])
    calls_a_second = ", ".join(f"{side} {median(found):,.0f}" for side, found in rates.items())
    note = f"edgebig {mine:.2f} times one thread's, ort {theirs:.2f}; calls a second of eight: {calls_a_second}"
    what = "eight threads' throughput over one's, over bare ONNX Runtime's"
    return Figure(what, name, mine / theirs, ">= 1.0", 3, note)


def rate(run: Run, workers: int, seconds: float = 1.0) -> float:
    """Calls a second."""

    def work(end: float) -> int:
        count = 0
        while time.perf_counter() < end:
            run()
            count += 1
        return count

    with ThreadPoolExecutor(workers) as pool:
        start = time.perf_counter()
        counts = list(pool.map(work, [start + seconds] * workers))
        return sum(counts) / (time.perf_counter() - start)


def stream(bundles: Mapping[str, Path], asked: argparse.Namespace, work: Path) -> list[Figure]:
    """Frames a second of examples/camera.py's loop with its steps overlapping, over one after the other."""
    from camera import Loop, drawings, frames

    from edgebig.bundle import Bundle

    video, figures = work / "street.avi", []
    if "TwinLiteNet" not in bundles or not street_video(video, 60):
        return []
    bundle, what = bundles["TwinLiteNet"], "camera loop as a stream over step after step"
    for where, cores in (("a run on one core", 1), ("a run on all cores", None)):
        times: dict[int, list[float]] = {0: [], 1: [], 2: []}
        with edgebig.load(bundle, threads=cores) as session:
            loop = Loop(Bundle.open(bundle), session)
            session.warm_up()
            for _ in range(asked.runs):
                for in_flight, found in times.items():
                    start = time.perf_counter()
                    drawn = sum(1 for _ in drawings(session, loop, frames(str(video), None), in_flight))
                    found.append((time.perf_counter() - start) / drawn)
        apart = median(times.pop(0))
        for in_flight, found in times.items():
            note = f"{median(found) * 1e3:.1f} ms a frame, step after step {apart * 1e3:.1f}"
            title = f"TwinLiteNet, {where}, {in_flight} in flight"
            limit = ">= 1.4" if cores == 1 and in_flight == 2 else ""
            figures.append(Figure(what, title, apart / median(found), limit, 2, note))
    return figures


FIGURES: dict[str, Callable[[Mapping[str, Path], argparse.Namespace, Path], list[Figure]]] = {
    "calls": calls,
    "load": load,
    "memory": memory,
    "jitter": jitter,
    "threads": threads,
    "stream": stream,
}

if __name__ == "__main__":
    sys.exit(main())
