"""What a call through shared memory takes over `session.run` in the caller's own process, with a 1 MB frame.

    python benchmarks/runtime/shm.py [--json] [--calls N] [--rounds N] [--spin US] [--pin] [--only NAME]

`edgebig serve` runs in a process of its own; the session in this process, the client in C (compiled here with -O2)
and the one in Python take turns, all on one thread of ONNX Runtime and on the same frame. Models of a
float32 frame: one of exactly 1 MiB that gives ten scores, one of one node that gives a frame of the same size, and
UltraFace, a trained face detector (922 kB). Each back to back and, as a control loop does it, at a fixed rate.
With --pin the server has one core and whoever calls another, as on a robot whose cores are given out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import onnx
from onnx import helper, numpy_helper

from benchmarks.accuracy.figures import Figure, report, say
from benchmarks.common import ROOT, machine
from edgebig.loading import load
from edgebig.pipeline import compile
from edgebig.serve import Client

Times = np.ndarray[Any, np.dtype[np.int64]]

SHAPE = (1, 4, 256, 256)
LIMIT_US = 60.0
PERIOD_US = 20_000
ULTRAFACE = ROOT.parent / "shared" / "data" / "ultraface" / "version-RFB-320.onnx"
_WARM_UP = 20
_PACKAGES = ("numpy", "onnxruntime")


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--calls", type=int, default=300, help="in each turn")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each side")
    parser.add_argument("--spin", type=int, default=300, help="microseconds, of the server and the clients")
    parser.add_argument("--pin", action="store_true", help="the server on one core, the callers on another")
    parser.add_argument("--only", choices=("scores", "frame", "ultraface"), help="one of the models")
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if asked.pin and len(cores) < 2:
        raise SystemExit("--pin takes two cores, this process may use one: give it more with taskset")
    if asked.pin:
        os.sched_setaffinity(0, cores[:1])
    before, figures, missing = machine(), [], []
    with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
        client = compile_client(Path(folder))
        if client is None:
            missing.append("the C client: there is no C compiler")
        models = {
            "frame to scores": Path(folder, "scores.onnx"),
            "frame to frame, one node": Path(folder, "frame.onnx"),
        }
        for path, model in zip(models.values(), (to_scores(), to_frame()), strict=True):
            onnx.save(model, path)
        if ULTRAFACE.exists():
            models["UltraFace"] = ULTRAFACE
        else:
            missing.append(f"UltraFace: {ULTRAFACE} is not here")
        for name, path in models.items():
            if asked.only not in (None, path.stem, name.lower()):
                continue
            bundle = Path(folder, path.name).with_suffix(".bundle")
            compile(path, out=bundle, target="cpu", precision="fp32", keep_original=False)
            for period_us in (0, PERIOD_US):
                what = f"{name}, {1_000_000 // period_us} calls a second" if period_us else f"{name}, back to back"
                say(what)
                figures += measure(bundle, client, period_us, what, asked, cores[-1:] if asked.pin else cores)
    setup = {**before, "calls": str(asked.calls), "rounds": str(asked.rounds), "spin, us": str(asked.spin)}
    setup["cores"] = "one each" if asked.pin else "any"
    report("Shared memory", figures, setup, _PACKAGES, missing, as_json=asked.json)
    return 0


def to_scores() -> onnx.ModelProto:
    """A convolution, the mean over the picture and a matrix product: float32 1x10."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w", (8, 4, 3, 3)), ("m", (8, 10)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[4, 4]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["y"]),
    ]
    return _model(nodes, weights, (1, 10))


def to_frame() -> onnx.ModelProto:
    """``y = relu(x)``."""
    return _model([helper.make_node("Relu", ["x"], ["y"])], [], SHAPE)


def _model(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], result: tuple[int, ...]) -> onnx.ModelProto:
    ins = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, SHAPE)]
    outs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, result)]
    graph = helper.make_graph(nodes, "frames", ins, outs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def compile_client(folder: Path) -> Path | None:
    """The program of ``shm_client.c``; ``None`` where there is no compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    out, code = folder / "shm_client", ROOT / "examples" / "c"
    sources = [str(Path(__file__).with_name("shm_client.c")), str(code / "edgebig_shm.c")]
    subprocess.run([compiler, "-std=c99", "-O2", f"-I{code}", "-o", str(out), *sources], check=True)
    return out


def measure(
    bundle: Path, client: Path | None, period_us: int, what: str, asked: argparse.Namespace, cores: Iterable[int]
) -> list[Figure]:
    """The four sides in turn, the server on those cores."""
    name = f"bench-{os.getpid()}"
    command = [sys.executable, "-m", "edgebig", "serve", str(bundle), "--shm", name, "--threads", "1"]
    server = subprocess.Popen(
        [*command, "--spin", str(asked.spin)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    try:
        wait_for(name)
        with load(bundle, threads=1) as session, Client(name, spin_us=asked.spin) as python:
            (spec,) = session.inputs
            shape = [dim if isinstance(dim, int) else 1 for dim in spec.shape]
            feeds = {spec.name: ((np.arange(np.prod(shape)) % 251) / 251).reshape(shape).astype(np.float32)}
            sides: dict[str, Callable[[], Times]] = {
                "session.run in process": lambda: timed(lambda: session.run(feeds), asked.calls, period_us),
                "Python client": lambda: timed(lambda: python.run(feeds), asked.calls, period_us),
            }
            if client is not None:
                for how in ("copy", "in-place"):
                    sides[f"C client, {how}"] = lambda how=how: run_client(client, name, asked, period_us, how)
            found: dict[str, list[Times]] = {side: [] for side in sides}
            for _ in range(asked.rounds):
                for side, run in sides.items():
                    found[side].append(run())
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    return list(figures_of({side: np.concatenate(times) for side, times in found.items()}, what))


def figures_of(times: dict[str, Times], what: str) -> list[Figure]:
    """Median and 99th percentile of each side in µs, and of the clients what they are above the session's."""
    base, *_ = times.values()
    rows = []
    for share, which in ((50, "median"), (99, "p99")):
        for side, found in times.items():
            value, own = (float(np.percentile(t, share)) / 1e3 for t in (found, base))
            if found is base:
                rows.append(Figure(f"{what}, {which}: above session.run, µs", side, 0.0, "", 1, f"{own:.1f} µs"))
                continue
            limit = f"<= {LIMIT_US:g}" if which == "median" and side.startswith("C client") else ""
            note = f"{value:.1f} µs, {value / own:.2f} times"
            rows.append(Figure(f"{what}, {which}: above session.run, µs", side, value - own, limit, 1, note))
    return rows


def timed(call: Callable[[], object], calls: int, period_us: int) -> Times:
    """Nanoseconds of each call."""
    times = np.zeros(calls, np.int64)
    due = time.monotonic_ns()
    for n in range(-_WARM_UP, calls):
        if period_us:
            due += period_us * 1000
            time.sleep(max(due - time.monotonic_ns(), 0) / 1e9)
        start = time.monotonic_ns()
        call()
        if n >= 0:
            times[n] = time.monotonic_ns() - start
    return times


def run_client(client: Path, name: str, asked: argparse.Namespace, period_us: int, how: str) -> Times:
    """Times of the C client, in a process of its own."""
    command = [client, name, str(asked.calls), str(period_us), how, str(asked.spin)]
    done = subprocess.run(command, check=True, capture_output=True)
    return np.frombuffer(done.stdout, np.int64)


def wait_for(name: str) -> None:
    """Until the server is there: it compiles nothing, but loads ONNX Runtime."""
    for _ in range(600):
        if Path(f"/dev/shm/edgebig.{name}").exists():
            return
        time.sleep(0.1)
    raise SystemExit("edgebig serve did not start")


if __name__ == "__main__":
    sys.exit(main())
