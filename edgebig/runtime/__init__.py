"""Bundle to outputs: the small API that an application embeds.

    from edgebig.runtime import load

    with load("resnet50.bundle") as session:
        logits = session.run({"pixel_values": batch})["logits"]

It needs NumPy and one engine (ONNX Runtime, TensorRT or TensorRT-RTX), which is imported when a bundle is loaded.
"""

from __future__ import annotations

import os

from edgebig.bundle import Bundle
from edgebig.errors import BundleError, UsageError
from edgebig.runtime.choose import Candidate, available_backends, checked_graph, first_that_opens, warn_of_fallback
from edgebig.runtime.golden import golden
from edgebig.runtime.latency import Latency, bench
from edgebig.runtime.onnxruntime_cpu import OnnxRuntimeCpu
from edgebig.runtime.session import Session

__all__ = ["Candidate", "Latency", "Session", "available_backends", "bench", "golden", "load", "load_original"]


def load(
    path: str | os.PathLike[str] | Bundle,
    *,
    part: str | None = None,
    prefer: str | None = None,
    threads: int | None = None,
) -> Session:
    """Opens the bundle at ``path`` on the best backend that this machine has.

    Every file is checked against the manifest's SHA-256 before an engine reads it. A warning
    (``RuntimeWarning``) says when a bundle for an NVIDIA device runs on the CPU instead.

    Args:
        path: the bundle's folder, or an opened bundle.
        part: which of the model's graphs, for models with several (``encoder``, ``decoder``).
        prefer: the backend to use and no other (``onnxruntime-cpu``); by default the best that opens.
        threads: threads that one run uses on the CPU; by default as many as the engine finds cores.

    Raises:
        BundleError: not a bundle, a damaged one, or it has no such part.
        MissingExtra: no engine is installed.
        BackendError: nothing on this machine opens it, or not the preferred backend.
        UsageError: ``threads`` is below 1.
    """
    _check_threads(threads)
    bundle = path if isinstance(path, Bundle) else Bundle.open(path)
    chosen = bundle.part(part)
    candidates = available_backends(bundle, part)
    backend, taken, why = first_that_opens(bundle, candidates, prefer, threads)
    if prefer is None:
        warn_of_fallback(bundle, candidates, taken, why, stacklevel=3)
    return Session(backend, taken.backend, chosen.inputs, chosen.outputs, why)


def load_original(path: str | os.PathLike[str], *, part: str | None = None, threads: int | None = None) -> Session:
    """Opens the graph as it was before quantization, where the bundle keeps it, to compare with.

    Raises:
        BundleError: as :func:`load`, or the part keeps no original.
        MissingExtra: onnxruntime is not installed.
        BackendError: ONNX Runtime does not open the graph.
        UsageError: ``threads`` is below 1.
    """
    _check_threads(threads)
    bundle = Bundle.open(path)
    graph = bundle.part(part).original
    if graph is None:
        raise BundleError(f"{bundle.path} does not keep the graph from before quantization")
    backend = OnnxRuntimeCpu(checked_graph(bundle, graph), optimize=True, threads=threads)
    return Session(backend, OnnxRuntimeCpu.name, backend.inputs, backend.outputs, (f"{graph}: the original",))


def _check_threads(threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be 1 or more, found {threads}")
