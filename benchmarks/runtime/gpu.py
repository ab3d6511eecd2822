"""edgebig's GPU runtime beside the bare calls that it makes, ONNX Runtime's CUDA provider and torch.compile.

    python benchmarks/runtime/gpu.py [--json] [--runs N] [--models resnet50,minilm,llama]

Needs an NVIDIA GPU with cuda-python and TensorRT or TensorRT-RTX; for the peers onnxruntime-gpu, and a torch with
CUDA. Every side takes its input from main memory and leaves its output there; models are FP16 inside.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

import edgebig
from benchmarks.accuracy.figures import Figure, report, say
from benchmarks.common import machine
from benchmarks.runtime.gpu_models import Example, examples
from edgebig.bundle import Bundle, Engine
from edgebig.errors import EdgebigError
from edgebig.runtime.gpu.cuda import Cuda, import_cuda
from edgebig.runtime.gpu.pinned import pinned_zeros
from edgebig.runtime.onnxruntime_gpu import OnnxRuntimeGpu
from edgebig.runtime.tensorrt import TensorRtBackend
from edgebig.target import targets

_OVERHEAD = "1: session.run over bare execute_async_v3 and copies, one-node model, µs more"
_REPLAY = "2: edgebig's bound run over the peer's run, host to host"
_TIME = "3: median of one run, host to host, ms"
_PACKAGES = ("numpy", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13-bindings", "cuda-bindings", "torch")
_ROUNDS = 7


def main() -> int:
    """Measures and prints; one line and exit code 1 where no GPU can be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=500, help="of each side in each round")
    parser.add_argument("--models", default=",".join(examples()), help="which models, by short name")
    asked = parser.parse_args()
    try:
        capability = Cuda(import_cuda()).capability()
        target = target_of(capability)
    except EdgebigError as error:
        print(f"no GPU to measure on: {error}", file=sys.stderr)
        return 1
    os.environ["EDGEBIG_CACHE"] = "off"
    before, figures, missing = machine(), [], []
    with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
        say("overhead")
        figures += overhead(Path(folder), target, asked.runs)
        for name in asked.models.split(","):
            say(name)
            found, lacking = beside_peers(examples()[name](), Path(folder), target, asked.runs)
            figures += found
            missing += lacking
    setup = {**before, "compute capability": capability, "target": target, "runs": str(asked.runs)}
    report("GPU runtime", sorted(figures, key=lambda f: f.what), setup, _PACKAGES, missing, as_json=asked.json)
    return 0


def target_of(capability: str) -> str:
    """The first target of edgebig's table with that compute capability.

    Raises:
        TargetError: there is none.
    """
    found = [name for name, target in targets().items() if target.compute_capability == capability]
    if not found:
        raise edgebig.errors.TargetError(f"no target has compute capability {capability}: 'edgebig targets' lists them")
    return found[0]


def overhead(folder: Path, target: str, runs: int) -> list[Figure]:
    """Microseconds that ``session.run`` takes beyond the calls of CUDA and TensorRT that it cannot do without."""
    graph = folder / "one_node.onnx"
    one_node(graph)
    bundle, engine = with_engine(graph, folder / "one_node.bundle", target, "fp32")
    x = np.ones((1, 1000), np.float32)
    bare = Bare(bundle.file(engine.path), engine.kind, x)
    figures = []
    with edgebig.load(bundle.path) as session:
        if not session.backend.startswith("tensorrt"):
            raise edgebig.errors.BackendError(f"the session runs on {session.backend}: {'; '.join(session.why)}")
        feeds = {"x": x}
        times = in_turn({"bare": bare.run, "session": lambda: session.run(feeds)}, runs)
        note = f"{times['session'] * 1e6:.2f} µs, bare {times['bare'] * 1e6:.2f} µs"
        more = (times["session"] - times["bare"]) * 1e6
        figures.append(Figure(_OVERHEAD, f"{session.backend}, CUDA graph", more, "<= 5", 2, note))
    plain = TensorRtBackend(bundle.file(engine.path), flavour=engine.kind, cuda_graphs=False)
    times = in_turn({"bare": bare.run, "plain": lambda: plain.run(["y"], feeds)}, runs)
    plain.close()
    bare.close()
    note = f"{times['plain'] * 1e6:.2f} µs, bare {times['bare'] * 1e6:.2f} µs"
    figures.append(
        Figure(_OVERHEAD, "backend alone, no graph", (times["plain"] - times["bare"]) * 1e6, "<= 5", 2, note)
    )
    return figures


def beside_peers(example: Example, folder: Path, target: str, runs: int) -> tuple[list[Figure], list[str]]:
    """Ratios of one model's times, and what peer is missing."""
    graph = folder / f"{example.name}.onnx"
    example.export(graph)
    bundle, engine = with_engine(graph, folder / f"{example.name}.bundle", target, "fp16")
    backend = TensorRtBackend(bundle.file(engine.path), flavour=engine.kind)
    inputs = {spec.name: backend.buffer(feed_shape(example, spec.name), spec.dtype) for spec in backend.inputs}
    for name, feed in example.feeds().items():
        inputs[name][...] = feed
    outputs = {spec.name: backend.buffer(tuple(map(int, spec.shape)), spec.dtype) for spec in backend.outputs}  # type: ignore[arg-type]
    bound = backend.bind(inputs, outputs)
    feeds = {spec.name: inputs[spec.name].copy() for spec in backend.inputs}
    sides: dict[str, Callable[[], object]] = {"edgebig": bound.run}
    missing = []
    for peer, make in (("ONNX Runtime CUDA", _onnxruntime), ("torch.compile", _torch)):
        try:
            sides[peer] = make(example, bundle, feeds)
        except (EdgebigError, ImportError, RuntimeError) as error:
            missing.append(f"{peer} of {example.name}: {' '.join(str(error).split())[:300]}")
    times = in_turn(sides, runs)
    bound.close()
    backend.close()
    peers = [peer for peer in sides if peer != "edgebig"]
    figures = [
        Figure(_REPLAY, f"{example.name} beside {peer}", times["edgebig"] / times[peer], "< 1", 3) for peer in peers
    ]
    figures += [Figure(_TIME, f"{example.name}, {side}", seconds * 1e3, "", 4) for side, seconds in times.items()]
    return figures, missing


def with_engine(graph: Path, out: Path, target: str, precision: str) -> tuple[Bundle, Engine]:
    """A bundle with an engine for this GPU: built ahead where that can be, else finished here."""
    from edgebig.device.finish import finish

    edgebig.compile(graph, out=out, target=target, precision=precision)  # type: ignore[arg-type]
    bundle = finish(out)
    return bundle, bundle.part().engines[0]


def one_node(path: Path) -> None:
    """``y = x + x`` of 1 x 1000."""
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1000]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "one", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)


def feed_shape(example: Example, name: str) -> tuple[int, ...]:
    """The shape of an input."""
    return example.feeds()[name].shape


class Bare:
    """The calls of CUDA and TensorRT for one shape, with nothing around them; the input stays in page-locked memory."""

    def __init__(self, engine: Path, flavour: str, x: np.ndarray[Any, Any]) -> None:
        from edgebig.runtime.gpu.engine import LoadedEngine, import_tensorrt

        self._cuda = Cuda(import_cuda())
        self._engine = LoadedEngine(import_tensorrt(flavour), engine)
        self._context: Any = self._engine.new_context()
        self._stream = self._cuda.stream_create()
        self._x, self._y = (pinned_zeros(self._cuda, x.shape, x.dtype) for _ in range(2))
        self._x[...] = x
        self._on_device = [self._cuda.malloc(x.nbytes) for _ in range(2)]
        self._context.set_input_shape("x", x.shape)
        for name, address in zip("xy", self._on_device, strict=True):
            self._context.set_tensor_address(name, address)
        cuda, context, stream, handle = self._cuda, self._context, self._stream, int(self._stream)
        (source, goal), size = self._on_device, x.nbytes
        given, made = self._x.ctypes.data, self._y.ctypes.data

        def run() -> None:
            cuda.copy_in(source, given, size, stream)
            context.execute_async_v3(handle)
            cuda.copy_out(made, goal, size, stream)
            cuda.synchronize(stream)

        self.run = run

    def close(self) -> None:
        """Frees all."""
        del self.run
        self._context = None
        for address in self._on_device:
            self._cuda.free(address)
        self._cuda.stream_destroy(self._stream)
        self._engine.close()


def _onnxruntime(example: Example, bundle: Bundle, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], object]:
    """The bundle's FP16 graph on ONNX Runtime's CUDA provider, as a CUDA graph where it can."""
    backend = OnnxRuntimeGpu(bundle.file(bundle.part().graph), "cuda", optimize=True)
    names = [spec.name for spec in backend.outputs]
    say(f"ONNX Runtime: {'CUDA graph' if backend.cuda_graph else 'no CUDA graph'}")
    return lambda: backend.run(names, feeds)


def _torch(example: Example, bundle: Bundle, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], object]:
    """The module in FP16 under torch.compile, with CUDA graphs."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("this torch has no CUDA")
    module = torch.compile(example.module.half().cuda(), mode="max-autotune")
    given = [value.half() if value.is_floating_point() else value for value in example.inputs]
    pinned = [value.pin_memory() for value in given]

    def run() -> object:
        with torch.inference_mode():
            return module(*(value.cuda(non_blocking=True) for value in pinned)).cpu()

    return run


def in_turn(sides: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Seconds of one run of each side: the median of the medians of a few rounds, in which the sides take turns."""
    for run in sides.values():
        for _ in range(max(10, runs // 10)):
            run()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS):
        for name, run in sides.items():
            times = []
            for _ in range(runs):
                start = time.perf_counter_ns()
                run()
                times.append(time.perf_counter_ns() - start)
            found[name].append(median(times) / 1e9)
    return {name: median(medians) for name, medians in found.items()}


if __name__ == "__main__":
    sys.exit(main())
