"""Which of the things in a bundle this machine runs, and why not the others."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgebig.bundle import Bundle, Engine, Part
from edgebig.errors import BackendError, MissingExtra
from edgebig.manifest import this_architecture
from edgebig.runtime.backend import Backend
from edgebig.runtime.onnxruntime_cpu import OnnxRuntimeCpu, import_onnxruntime

_GPU_KINDS = ("tensorrt", "tensorrt-rtx")
_PROVIDERS: dict[str, Literal["tensorrt", "cuda"]] = {"onnxruntime-tensorrt": "tensorrt", "onnxruntime-cuda": "cuda"}
"""Backends that run the portable graph on a GPU, best first."""


@dataclass(frozen=True)
class Candidate:
    """One file of a bundle and the backend that it is for.

    Attributes:
        backend: ``tensorrt``, ``tensorrt-rtx``, ``onnxruntime-tensorrt``, ``onnxruntime-cuda`` or ``onnxruntime-cpu``.
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
    engines = [_of_engine(bundle, engine, version, problem) for engine in chosen.engines]
    on_gpu = sorted((c for c in engines if c.backend in _GPU_KINDS), key=lambda c: _GPU_KINDS.index(c.backend))
    others = [c for c in engines if c.backend not in _GPU_KINDS]
    providers = [] if bundle.manifest.target.get("compute_capability") is None else _on_providers(chosen, problem)
    return (*on_gpu, *providers, *others, _portable(bundle, chosen, problem))


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
    """Warns when a bundle for an NVIDIA device was opened without its engine: it works, slower than was meant.

    ``why`` is what :func:`first_that_opens` said of each candidate.
    """
    target = bundle.manifest.target
    if target.get("compute_capability") is None or taken.backend in _GPU_KINDS:
        return
    refused = [
        line.removeprefix(f"{candidate}: not taken: ")
        for candidate, line in zip(candidates, why, strict=True)
        if candidate.backend in _GPU_KINDS
    ]
    reason = refused[0] if refused else "it holds no engine, which a device of that kind builds for itself"
    if taken.backend in _PROVIDERS:
        where, advice = "on ONNX Runtime", f"an engine may be faster: run 'edgebig finish {bundle.path}'"
    else:
        where, advice = "on the CPU", "for speed on this CPU compile the model with '--target cpu'"
    advice = "" if advice.rpartition(": ")[2] in reason else f"; {advice}"
    warnings.warn(
        f"{bundle.path} was compiled for {target.get('name')} and runs {where} here: {reason}{advice}",
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

        return TensorRtBackend(bundle.file(candidate.file), flavour=candidate.backend)
    graph = checked_graph(bundle, candidate.file)
    if candidate.backend in _PROVIDERS:
        from edgebig.runtime.onnxruntime_gpu import OnnxRuntimeGpu

        found = next(p for p in bundle.manifest.parts.values() if p.graph == candidate.file)
        data = [file.sha256 for name, file in bundle.manifest.files.items() if name.startswith(candidate.file)]
        return OnnxRuntimeGpu(
            graph,
            _PROVIDERS[candidate.backend],
            optimize=candidate.optimize,
            formats=tuple(found.precision),
            profiles=found.profiles,
            hashes=data,
            cuda_graph=all(spec.is_static for spec in (*found.inputs, *found.outputs)),
        )
    return OnnxRuntimeCpu(graph, optimize=candidate.optimize, threads=threads)


def _onnxruntime() -> tuple[str | None, str]:
    """Its version; or ``None`` and why it is not there."""
    try:
        return str(import_onnxruntime().__version__), ""
    except (MissingExtra, BackendError) as error:
        return None, str(error)


def _of_engine(bundle: Bundle, engine: Engine, version: str | None, problem: str) -> Candidate:
    if engine.kind in _GPU_KINDS:
        return _of_gpu_engine(bundle, engine)
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


def _of_gpu_engine(bundle: Bundle, engine: Engine) -> Candidate:
    """Looks for the libraries and a GPU, and whether the engine suits them by NVIDIA's rules."""
    from edgebig.runtime.gpu.cuda import Cuda, import_cuda
    from edgebig.runtime.gpu.engine import import_tensorrt
    from edgebig.runtime.gpu.machine import this_machine, why_not, why_taken

    try:
        machine = this_machine(engine.kind, import_tensorrt(engine.kind), Cuda(import_cuda()))
    except (MissingExtra, BackendError) as error:
        return Candidate(engine.kind, engine.path, False, str(error))
    refusal = why_not(bundle, engine, machine)
    return Candidate(engine.kind, engine.path, not refusal, refusal or why_taken(engine, machine))


def _on_providers(part: Part, problem: str) -> list[Candidate]:
    """The portable graph on ONNX Runtime's GPU providers, whose large libraries are looked for when one is opened."""
    reasons = dict.fromkeys(_PROVIDERS, problem)
    if not problem:
        from edgebig.runtime.gpu.cuda import Cuda, import_cuda
        from edgebig.runtime.onnxruntime_gpu import provider_absent

        ort = import_onnxruntime()
        reasons = {name: provider_absent(ort, provider) for name, provider in _PROVIDERS.items()}
        if not all(reasons.values()):
            try:
                Cuda(import_cuda())
            except MissingExtra:
                pass  # ONNX Runtime looks for the GPU by itself
            except BackendError as error:
                reasons = {name: reason or str(error) for name, reason in reasons.items()}
    taken = "the portable graph"
    return [Candidate(n, part.graph, not r, r or taken, optimize=not part.quantized) for n, r in reasons.items()]


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
