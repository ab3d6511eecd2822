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
    """Opens the bundle at ``path`` on the best backend that this machine has.

    Every file is checked against the manifest's SHA-256 before anything of it runs, and before TensorRT reads it.
    A warning (``RuntimeWarning``) says when a bundle for an NVIDIA device runs on the CPU instead, or another backend
    than the preferred one was taken.

    Args:
        path: the bundle's folder, or an opened bundle.
        part: which of the model's graphs, for models with several (``encoder``, ``decoder``).
        prefer: the backend to try before the others (``tensorrt``).
        require: the backend to use and no other (``onnxruntime-cpu``).
        threads: threads that one run uses on the CPU; by default as many as the engine finds cores.
        in_flight: how many runs of :meth:`Session.run_async` take place at a time.
        queue: how many more of them may wait.
        check_finite: whether inputs with NaN or infinity are refused; that costs a pass over each.
        trace: called for each run with a name and attributes, gives the context that the run happens in;
            :func:`edgebig.runtime.telemetry.opentelemetry_spans` makes one.
        device: what the model shares with others, from :func:`share`.
        priority: on the shared device; the higher goes first.
        find_engines: adds engines that are kept outside the bundle; called on a reload too.

    Raises:
        BundleError: not a bundle, a damaged one, or it has no such part.
        MissingExtra: no engine is installed.
        BackendError: nothing on this machine opens it, or not the required backend, or it does not fit the device.
        UsageError: ``threads``, ``in_flight`` or ``queue`` is below 1, both ``prefer`` and ``require`` are given, or
            ``device`` or ``priority`` is none.
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
