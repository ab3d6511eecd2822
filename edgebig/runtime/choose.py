"""Which of the things in a bundle this machine runs, and why not the others."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgebig.bundle import Bundle, Engine, Part
from edgebig.errors import BackendError, MissingExtra
from edgebig.manifest import this_architecture
from edgebig.runtime.backend import Backend
from edgebig.runtime.onnxruntime_cpu import OnnxRuntimeCpu, import_onnxruntime

if TYPE_CHECKING:
    from edgebig.runtime.gpu.weights import Weights

_GPU_KINDS = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Candidate:
    """One file of a bundle and the backend that it is for.

    Attributes:
        backend: ``onnxruntime-cpu``, ``tensorrt`` or ``tensorrt-rtx``.
        file: the graph or engine in the bundle.
        usable: whether this machine can run it, as far as one sees without loading it.
        reason: why it can or cannot.
        optimize: whether ONNX Runtime may use all its graph optimizations on it.
    """

    backend: str
    file: str
    usable: bool
    reason: str
    optimize: bool = True

    def __str__(self) -> str:
        return f"{self.backend} with {self.file}"


def available_backends(bundle: Bundle, part: str | None = None) -> tuple[Candidate, ...]:
    """Everything in the bundle that could run the part, best first, with whether it can here. Loads nothing.

    Raises:
        BundleError: no such part, or several and no name.
    """
    chosen = bundle.part(part)
    version, problem = _onnxruntime()
    engines = [_of_engine(engine, version, problem) for engine in chosen.engines]
    return (*engines, _portable(bundle, chosen, problem))


def first_that_opens(
    bundle: Bundle, candidates: Sequence[Candidate], prefer: str | None, threads: int | None
) -> tuple[Backend, Candidate, tuple[str, ...]]:
    """Opens the first usable candidate, of the preferred backend where one is named.

    Returns:
        The backend, its candidate, and one line on each candidate: taken or not, and why.

    Raises:
        BundleError: a file that would be loaded is damaged.
        MissingExtra: onnxruntime, which would run it, is not installed.
        BackendError: none opens.
    """
    opened: tuple[Backend, Candidate] | None = None
    why: list[str] = []
    for candidate in candidates:
        if prefer is not None and candidate.backend != prefer:
            why.append(f"{candidate}: not taken: {prefer} was asked for")
        elif not candidate.usable:
            why.append(f"{candidate}: not taken: {candidate.reason}")
        elif opened is not None:
            why.append(f"{candidate}: not taken: one before it serves")
        else:
            try:
                opened = _open(bundle, candidate, threads), candidate
                why.append(f"{candidate}: taken: {candidate.reason}")
            except BackendError as error:
                why.append(f"{candidate}: not taken: {error}")
    if opened is None:
        raise _nothing_opens(bundle, candidates, prefer, why)
    return (*opened, tuple(why))


def warn_of_fallback(
    bundle: Bundle, candidates: Sequence[Candidate], taken: Candidate, why: Sequence[str], *, stacklevel: int
) -> None:
    """Warns when a bundle for an NVIDIA device was opened on the CPU: it works, far slower than was meant.

    ``why`` is what :func:`first_that_opens` said of each candidate.
    """
    target = bundle.manifest.target
    if target.get("compute_capability") is None or taken.backend != OnnxRuntimeCpu.name:
        return
    refused = [
        line.removeprefix(f"{candidate}: not taken: ")
        for candidate, line in zip(candidates, why, strict=True)
        if candidate.backend != OnnxRuntimeCpu.name
    ]
    reason = refused[0] if refused else "it holds no engine, which a device of that kind builds for itself"
    warnings.warn(
        f"{bundle.path} was compiled for {target.get('name')} and runs on the CPU here: {reason}; "
        "for speed on this CPU compile the model with '--target cpu'",
        RuntimeWarning,
        stacklevel=stacklevel,
    )


def checked_graph(bundle: Bundle, graph: str) -> Path:
    """The path of an ONNX graph, after it and its external data (files named after it) were checked.

    Raises:
        BundleError: one of them is missing or differs from the manifest.
    """
    for name in bundle.manifest.files:
        if name.startswith(graph):
            bundle.file(name)
    return bundle.file(graph)


def _open(bundle: Bundle, candidate: Candidate, threads: int | None) -> Backend:
    if candidate.backend in _GPU_KINDS:
        from edgebig.runtime.tensorrt import TensorRtBackend

        weights = _weights(bundle, candidate.file)
        return TensorRtBackend(bundle.file(candidate.file), flavour=candidate.backend, weights=weights)
    return OnnxRuntimeCpu(checked_graph(bundle, candidate.file), optimize=candidate.optimize, threads=threads)


def _weights(bundle: Bundle, file: str) -> Weights | None:
    """What the manifest says of the weights of an engine; ``None`` where it simply holds them."""
    from edgebig.runtime.gpu.weights import Weights

    part, engine = next((p, e) for p in bundle.manifest.parts.values() for e in p.engines if e.path == file)
    if not engine.stripped and engine.weight_streaming is None:
        return None
    graph = checked_graph(bundle, part.graph) if engine.stripped else None
    return Weights(graph, engine.weight_streaming)


def _onnxruntime() -> tuple[str | None, str]:
    """Its version; or ``None`` and why it is not there."""
    try:
        return str(import_onnxruntime().__version__), ""
    except (MissingExtra, BackendError) as error:
        return None, str(error)


def _of_engine(engine: Engine, version: str | None, problem: str) -> Candidate:
    if engine.kind in _GPU_KINDS:
        return _of_gpu_engine(engine)
    if engine.kind != "onnxruntime":
        return Candidate(engine.kind, engine.path, False, f"this edgebig runs no engines of {engine.kind}: update it")
    machine = this_architecture()
    if machine not in engine.hardware:
        reason = f"it is for {' and '.join(engine.hardware)}, this machine is {machine}"
    elif version is None:
        reason = problem
    elif _release(version) < _release(engine.version):
        reason = f"it was made with ONNX Runtime {engine.version}, this machine has the older {version}"
    else:
        return Candidate(OnnxRuntimeCpu.name, engine.path, True, f"optimized for {machine}")
    return Candidate(OnnxRuntimeCpu.name, engine.path, False, reason)


def _of_gpu_engine(engine: Engine) -> Candidate:
    """Looks for the libraries and a GPU; whether the engine suits them, TensorRT says when it loads it."""
    from edgebig.runtime.gpu.cuda import Cuda, import_cuda
    from edgebig.runtime.gpu.engine import import_tensorrt

    try:
        Cuda(import_cuda())
        here = import_tensorrt(engine.kind).__version__
    except (MissingExtra, BackendError) as error:
        return Candidate(engine.kind, engine.path, False, str(error))
    return Candidate(engine.kind, engine.path, True, f"built with {engine.version}, this machine has {here}")


def _portable(bundle: Bundle, part: Part, problem: str) -> Candidate:
    # ONNX Runtime's fusions suit the Q/DQ pairs that are placed for a CPU, and no others.
    optimize = bundle.manifest.target.get("engine") == "host" or not part.quantized
    return Candidate(OnnxRuntimeCpu.name, part.graph, not problem, problem or "the portable graph", optimize)


def _release(version: str) -> tuple[int, ...]:
    """Major and minor number."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _nothing_opens(
    bundle: Bundle, candidates: Sequence[Candidate], prefer: str | None, why: Sequence[str]
) -> MissingExtra | BackendError:
    wanted = [c for c in candidates if prefer in (None, c.backend)]
    if not wanted:
        backends = ", ".join(dict.fromkeys(c.backend for c in candidates))
        return BackendError(f"{bundle.path} holds nothing for the backend {prefer!r}: it has {backends}")
    if any(c.backend == OnnxRuntimeCpu.name for c in wanted):
        try:
            import_onnxruntime()
        except MissingExtra as missing:
            return missing
        except BackendError:
            pass
    return BackendError(f"{bundle.path}: nothing on this machine runs it: {'; '.join(why)}")
