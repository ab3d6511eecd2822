"""Which of the things in a bundle this machine runs, and why not the others."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Literal

from edgebig.bundle import Bundle, Engine, Part
from edgebig.errors import BackendError, MissingExtra
from edgebig.manifest import this_architecture
from edgebig.runtime.backend import Backend
from edgebig.runtime.onnxruntime_cpu import OnnxRuntimeCpu, import_onnxruntime

if TYPE_CHECKING:
    from edgebig.runtime.gpu.weights import Weights

_GPU_KINDS = ("tensorrt", "tensorrt-rtx")
_PROVIDERS: dict[str, Literal["tensorrt", "cuda"]] = {"onnxruntime-tensorrt": "tensorrt", "onnxruntime-cuda": "cuda"}
"""Backends that run the portable graph on a GPU, best first."""

_KNOWN = (*_GPU_KINDS, *_PROVIDERS, OnnxRuntimeCpu.name)
_LARGE = 1 << 20
_LOG = logging.getLogger("edgebig.runtime")


@dataclass(frozen=True)
class Candidate:
    """One file of a bundle and the backend that it is for.

    Attributes:
        backend: ``tensorrt``, ``tensorrt-rtx``, ``onnxruntime-tensorrt``, ``onnxruntime-cuda`` or ``onnxruntime-cpu``.
        file: the graph or engine in the bundle.
        usable: whether this machine can run it, as far as one sees without loading it.
        reason: why it can or cannot.
        optimize: whether ONNX Runtime may use all its graph optimizations on it.
        done_ahead: whether it has used those already that do not depend on the exact processor, in this very version.
    """

    backend: str
    file: str
    usable: bool
    reason: str
    optimize: bool = True
    done_ahead: bool = False

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
    portable = _portable(bundle, chosen, problem)
    is_engine = any(c.usable and (c.backend, c.file) == (portable.backend, portable.file) for c in others)
    return (*on_gpu, *providers, *others, *([] if is_engine else [portable]))


def first_that_opens(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    *,
    prefer: str | None = None,
    require: str | None = None,
    threads: int | None = None,
) -> tuple[Backend, Candidate, tuple[str, ...]]:
    """Opens the first usable candidate.

    Args:
        bundle: holds their files.
        candidates: best first.
        prefer: the backend whose candidates are tried before the others.
        require: the backend whose candidates alone are tried.
        threads: threads of one run on the CPU.

    Returns:
        The backend, its candidate, and one line on each candidate: taken or not, and why.

    Raises:
        BundleError: a file that would be loaded is damaged.
        MissingExtra: onnxruntime, which would run it, is not installed.
        BackendError: none opens.
    """
    opened: tuple[Backend, Candidate] | None = None
    why: list[str] = []
    for candidate in preferred_first(candidates, prefer):
        if require is not None and candidate.backend != require:
            why.append(f"{candidate}: not taken: {require} was asked for")
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
        raise _nothing_opens(bundle, candidates, require, why)
    return (*opened, tuple(why))


def preferred_first(candidates: Sequence[Candidate], prefer: str | None) -> list[Candidate]:
    """The candidates, those of the preferred backend before the others."""
    return sorted(candidates, key=lambda candidate: candidate.backend != prefer)


def warn_of_fallback(bundle: Bundle, candidates: Sequence[Candidate], taken: Candidate, why: Sequence[str]) -> None:
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
    finish = f"where the device is, 'edgebig finish {bundle.path}' mends it (--dry-run says what is missing)"
    if taken.backend in _PROVIDERS:
        where, advice = "on ONNX Runtime", f"; an engine may be faster: run 'edgebig finish {bundle.path}'"
    else:
        where, advice = "on the CPU", f"; {finish}; for speed on this CPU compile the model with '--target cpu'"
    if f"'edgebig finish {bundle.path}'" in reason:  # it was said already
        advice = "" if taken.backend in _PROVIDERS else "; for speed on this CPU compile the model with '--target cpu'"
    _warn(f"{bundle.path} was compiled for {target.get('name')} and runs {where} here: {reason}{advice}")


def warn_of_another(bundle: Bundle, prefer: str, taken: Candidate, why: Sequence[str]) -> None:
    """Warns when another backend than the preferred one was taken."""
    if taken.backend == prefer:
        return
    lines = [line for line in why if line.startswith(f"{prefer} ")]
    reason = lines[0].partition(": not taken: ")[2] if lines else "the bundle holds nothing for it"
    if not lines and prefer not in _KNOWN:
        reason, advice = "there is no backend of that name", f"there are {', '.join(_KNOWN)}"
    elif bundle.manifest.target.get("compute_capability") is None:
        advice = "it is for a CPU: compile the model with the '--target' of a GPU"
    elif prefer in _GPU_KINDS:
        advice = f"'edgebig finish {bundle.path}' on the device builds its engine"
    else:
        advice = "'edgebig doctor' says what is missing"
    _warn(f"{bundle.path} runs on {taken.backend}, not on {prefer} as preferred: {reason}; {advice}")


def _warn(message: str) -> None:
    """Warns at the line outside edgebig that asked for it."""
    _LOG.info(message)
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "edgebig":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def checked_graph(bundle: Bundle, graph: str) -> Path:
    """The path of an ONNX graph, after it and its external data (files named after it) were checked.

    Raises:
        BundleError: one of them is missing or differs from the manifest.
    """
    for name in bundle.manifest.files:
        if name.startswith(graph):
            bundle.file(name)
    return bundle.file(graph)


@contextmanager
def checked_meanwhile(bundle: Bundle, graph: str) -> Iterator[Path]:
    """The path of an ONNX graph to load; it may run once the context has ended, for then it was checked.

    Hashing takes as long as ONNX Runtime takes to load large weights, so it happens beside it. A graph is data to
    ONNX Runtime, other than an engine of TensorRT, which is code and is checked first.

    Raises:
        BundleError: as :func:`checked_graph`; it goes before an error of the context itself.
    """
    found: list[BaseException] = []

    def check() -> None:
        try:
            checked_graph(bundle, graph)
        except BaseException as error:  # it is raised below
            found.append(error)

    thread = Thread(target=check, name="edgebig-hash")
    thread.start()
    try:
        yield bundle.path / graph
    finally:
        thread.join()
        if found:
            raise found[0] from None


def _open(bundle: Bundle, candidate: Candidate, threads: int | None) -> Backend:
    if candidate.backend in _GPU_KINDS:
        from edgebig.runtime.tensorrt import TensorRtBackend

        weights = _weights(bundle, candidate.file)
        return TensorRtBackend(bundle.file(candidate.file), flavour=candidate.backend, weights=weights)
    if candidate.backend in _PROVIDERS:
        from edgebig.runtime.onnxruntime_gpu import OnnxRuntimeGpu

        found = next(p for p in bundle.manifest.parts.values() if p.graph == candidate.file)
        data = [file.sha256 for name, file in bundle.manifest.files.items() if name.startswith(candidate.file)]
        return OnnxRuntimeGpu(
            checked_graph(bundle, candidate.file),
            _PROVIDERS[candidate.backend],
            optimize=candidate.optimize,
            formats=tuple(found.precision),
            profiles=found.profiles,
            hashes=data,
            cuda_graph=all(spec.is_static for spec in (*found.inputs, *found.outputs)),
        )
    optimize, done_ahead = candidate.optimize, candidate.done_ahead
    if sum(file.bytes for name, file in bundle.manifest.files.items() if name.startswith(candidate.file)) < _LARGE:
        graph = checked_graph(bundle, candidate.file)
        return OnnxRuntimeCpu(graph, optimize=optimize, done_ahead=done_ahead, threads=threads)
    with checked_meanwhile(bundle, candidate.file) as graph:
        return OnnxRuntimeCpu(graph, optimize=optimize, done_ahead=done_ahead, threads=threads)


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
    elif version != engine.version and _release(version) < _release(engine.version):
        reason = f"it was made with ONNX Runtime {engine.version}, this machine has the older {version}"
    else:
        same = version == engine.version
        return Candidate(OnnxRuntimeCpu.name, engine.path, True, f"optimized for {machine}", done_ahead=same)
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
    return tuple(int("".join(takewhile(str.isdigit, number)) or 0) for number in version.split(".")[:2])


def _nothing_opens(
    bundle: Bundle, candidates: Sequence[Candidate], require: str | None, why: Sequence[str]
) -> MissingExtra | BackendError:
    wanted = [c for c in candidates if require in (None, c.backend)]
    if not wanted:
        backends = ", ".join(dict.fromkeys(c.backend for c in candidates))
        return BackendError(f"{bundle.path} holds nothing for the backend {require!r}: it has {backends}")
    if any(c.backend == OnnxRuntimeCpu.name for c in wanted):
        try:
            import_onnxruntime()
        except MissingExtra as missing:
            return missing
        except BackendError:
            pass
    return BackendError(f"{bundle.path}: nothing on this machine runs it: {'; '.join(why)}")
