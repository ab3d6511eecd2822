"""Bundle to outputs: the small API that an application embeds.

    from edgebig.runtime import load

    with load("resnet50.bundle") as session:
        logits = session.run({"pixel_values": batch})["logits"]

It needs NumPy and one engine (ONNX Runtime, TensorRT or TensorRT-RTX), which is imported when a bundle is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import SupportsIndex

from edgebig.bundle import Bundle
from edgebig.errors import BundleError, UsageError
from edgebig.runtime.choose import Candidate, available_backends, checked_graph
from edgebig.runtime.core import Loaded, Source, Trace
from edgebig.runtime.golden import golden
from edgebig.runtime.latency import Latency, bench
from edgebig.runtime.onnxruntime_cpu import OnnxRuntimeCpu
from edgebig.runtime.opening import Opening
from edgebig.runtime.session import Session
from edgebig.runtime.share import Place, SharedDevice, share
from edgebig.runtime.stats import Stats

__all__ = [
    "Candidate",
    "Latency",
    "Session",
    "SharedDevice",
    "Stats",
    "available_backends",
    "bench",
    "golden",
    "load",
    "load_original",
    "share",
]


_MOST = (1 << 31) - 1
"""What an engine's C interface holds."""


def load(
    path: Source,
    *,
    part: str | None = None,
    prefer: str | None = None,
    require: str | None = None,
    threads: int | None = None,
    in_flight: int = 2,
    queue: int = 16,
    check_finite: bool = False,
    trace: Trace | None = None,
    device: SharedDevice | None = None,
    priority: int = 0,
    find_engines: Callable[[Bundle], Bundle] | None = None,
) -> Session:
    """As :func:`edgebig.load`, which says what the arguments are, but nothing is built, or looked for elsewhere.

    Args:
        path, part, prefer, require, threads, in_flight, queue, check_finite, trace, device, priority: as there.
        find_engines: adds engines that are kept outside the bundle; called on a reload too.

    Raises:
        BundleError, MissingExtra, BackendError, UsageError: as there.
    """
    _check_counts(threads=threads, in_flight=in_flight, queue=queue)
    if prefer is not None and require is not None:
        raise UsageError(f"prefer={prefer!r} and require={require!r} contradict each other: give one of them")
    if device is not None and not isinstance(device, SharedDevice):
        raise UsageError(f"device must come from edgebig.runtime.share(), found {type(device).__name__}")
    place = None if device is None else Place(device, priority)
    opening = Opening(part, prefer, require, threads, check_finite, device, find_engines)
    _, _, loaded = opening(path)
    return Session(loaded, reopen=opening, trace=trace, place=place, in_flight=in_flight, queue=queue)


def load_original(path: str | os.PathLike[str], *, part: str | None = None, threads: int | None = None) -> Session:
    """Opens the graph as it was before quantization, where the bundle keeps it, to compare with.

    Raises:
        BundleError: as :func:`load`, or the part keeps no original.
        MissingExtra: onnxruntime is not installed.
        BackendError: ONNX Runtime does not open the graph.
        UsageError: ``threads`` is below 1.
    """
    _check_counts(threads=threads)
    bundle = Bundle.open(path)
    graph = bundle.part(part).original
    if graph is None:
        raise BundleError(f"{bundle.path} does not keep the graph from before quantization")
    backend = OnnxRuntimeCpu(checked_graph(bundle, graph), optimize=True, threads=threads)
    return Session(Loaded(backend, OnnxRuntimeCpu.name, backend.inputs, backend.outputs, (f"{graph}: the original",)))


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is None:
            continue
        if not isinstance(count, SupportsIndex):
            raise UsageError(f"{name} must be a whole number, found {count!r:.40}")
        if not 1 <= count <= _MOST:
            raise UsageError(f"{name} must be 1 or more{'' if count < 1 else f' and {_MOST} at most'}, found {count}")
