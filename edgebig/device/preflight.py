"""Says in plain words whether a bundle's engines run here, and what building one will take. Nothing is deserialized."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from edgebig.bundle import Bundle, Engine
from edgebig.compatibility import Machine, engine_notes, has_dla, numbers, short, sm
from edgebig.device.history import Expected, History, Marks, PastBuild, span
from edgebig.device.timing import device_key, timing_entries
from edgebig.runtime.gpu.machine import ANEW, misfit

_NVIDIA = ("tensorrt", "tensorrt-rtx")
_CONTEXT_BYTES = 500 << 20
"""What CUDA's context and TensorRT's kernels take beside an engine: a rough figure, not measured here."""


_EXPLICIT_DLA = 11
"""The first TensorRT whose DLA builds are strongly typed: TensorRT 11.4.1, "Strongly Typed Networks for DLA". Before,
"DLA does not support explicit quantization": NVIDIA TensorRT Developer Guide 8.6, "Working with DLA"."""


@dataclass(frozen=True)
class Preflight:
    """What is known of one part before anything is built or loaded.

    Attributes:
        part: its name.
        fitting: the first engine that runs here; ``None`` where none does.
        refused: for each other engine, why not.
        notes: what to know of the one that fits.
        builder: ``tensorrt`` or ``tensorrt-rtx``, whichever would build here; ``None`` where neither is installed.
        weight_bytes, activation_bytes: of the graph, as far as the bundle says.
        memory_bytes: an estimate of the memory that a session takes; ``None`` where the bundle has no figures.
        seconds: an estimate of the build's time; ``None`` where nothing is known.
        basis: what the estimate of the time is based on.
        marks: where the steps of an earlier build lay.
        dla: lines on what the DLA core that was asked for takes.
        has_gpu: whether the driver shows one.
        other: what to know where the bundle was compiled for another GPU than this machine's; empty elsewhere.
    """

    part: str
    fitting: Engine | None
    refused: tuple[str, ...]
    notes: tuple[str, ...]
    builder: str | None
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    memory_bytes: int | None = None
    seconds: float | None = None
    basis: str = ""
    marks: Marks = field(default_factory=dict)
    dla: tuple[str, ...] = ()
    has_gpu: bool = True
    other: str = ""

    def lines(self, path: str) -> list[str]:
        """For people; ``path`` is the bundle's, for the command to type."""
        name = f"{self.part}: "
        if self.fitting is not None:
            found = [f"{name}{self.fitting.path} runs here", *(f"{name}{note}" for note in self.notes)]
        else:
            why = list(self.refused) or ["no engine yet"]
            found = [f"{name}{reason}{'' if reason.endswith(ANEW) else self._advice(path)}" for reason in why]
            found += [f"{name}{self.other}"] if self.other else []
        found += [f"{name}{line}" for line in self.dla]
        if self.memory_bytes is not None:
            found.append(f"{name}about {self.memory_bytes / 1e6:.0f} MB of memory to run (an estimate)")
        if self.fitting is None and self.builder is not None and self.has_gpu:
            found.append(f"{name}{self.time_line()}")
        return found

    def _advice(self, path: str) -> str:
        if not self.has_gpu:
            return f": run 'edgebig finish {path}' on the device"
        if self.builder is None:
            return ": install TensorRT (a Jetson's JetPack brings it, docs/jetson.md)"
        return f": run 'edgebig finish {path}'"

    def time_line(self) -> str:
        """What a build may take."""
        if self.seconds is None:
            return "time to build: unknown (nothing was built on this device yet)"
        return f"about {span(self.seconds)} to build (an estimate from {self.basis})"


def preflight(
    bundle: Bundle, name: str, machine: Machine, *, dla: int | None = None, history: History | None = None
) -> Preflight:
    """What is known of one part on this machine.

    Args:
        bundle: whose.
        name: the part's.
        machine: this machine.
        dla: the DLA core that an engine must use to count; ``None``: any or none.
        history: what earlier builds took; this device's own by default.
    """
    part = bundle.part(name)
    engines = [e for e in part.engines if e.kind in _NVIDIA and (dla is None or e.dla == dla)]
    refused = [(engine, misfit(bundle, engine, machine)) for engine in engines]
    fitting = next((engine for engine, reason in refused if not reason), None)
    builder = next((kind for kind in _NVIDIA if machine.version_of(kind)), None)
    weights = part.sizes.get("weight_bytes")
    activations = part.sizes.get("activation_bytes")
    known = None if weights is None else weights + (activations or 0) + _CONTEXT_BYTES
    expected = _expected(bundle, name, machine, builder, history or History())
    return Preflight(
        part=name,
        fitting=fitting,
        refused=tuple(reason for _, reason in refused if reason),
        notes=() if fitting is None else engine_notes(fitting, machine),
        builder=builder,
        weight_bytes=weights,
        activation_bytes=activations,
        memory_bytes=known,
        seconds=expected.seconds,
        basis=expected.basis,
        marks=expected.marks,
        dla=() if dla is None else dla_lines(bundle, name, machine, dla),
        has_gpu=machine.capability is not None,
        other=_other_gpu(bundle, machine),
    )


def _other_gpu(bundle: Bundle, machine: Machine) -> str:
    target = bundle.manifest.target
    wanted = target.get("compute_capability")
    if wanted is None or machine.capability in (None, wanted):
        return ""
    return (
        f"the bundle was compiled for {target.get('name')} ({sm(str(wanted))}): 'edgebig finish' builds for this GPU "
        "with --any-device alone; compile for this device if you can"
    )


def dla_lines(bundle: Bundle, name: str, machine: Machine, core: int) -> tuple[str, ...]:
    """What a DLA core of this machine takes of a part, as far as the compile, the target and the version tell.

    Raises:
        BundleError: the bundle's file on it is damaged.
    """
    found: list[str] = []
    part = bundle.part(name)
    cores = bundle.manifest.target.get("dla_cores") if machine.dla_cores is None else machine.dla_cores
    if isinstance(cores, int) and core >= cores:
        has = f"has {cores} DLA cores" if cores else "has no DLA"
        found.append(f"DLA core {core} was asked for and this machine {has}: leave it out")
    if machine.tensorrt is not None and not has_dla(machine.tensorrt):
        found.append(
            f"TensorRT {short(machine.tensorrt)} has no DLA: TensorRT up to 10.7 (JetPack 6) and from 11.4.1 "
            "(JetPack 7.2.2, AGX Orin) have it"
        )
    elif part.quantized and machine.tensorrt is not None and numbers(machine.tensorrt)[0] < _EXPLICIT_DLA:
        found.append(
            f"TensorRT {short(machine.tensorrt)}'s DLA takes no Q/DQ pairs, so that the GPU runs what is in INT8: "
            "compile in fp16 for this DLA, or use TensorRT 11.4.1"
        )
    file = f"evidence/{name}.dla.json"
    if file not in bundle.manifest.files:
        return (*found, "compiled without --dla-core: what the GPU must run beside the DLA is not known")
    facts = json.loads(bundle.file(file).read_text(encoding="utf-8"))
    on_gpu = Counter((row["op"], row["reason"]) for row in facts["on_gpu"])
    taken = facts["layers"] - len(facts["on_gpu"])
    found.append(f"the DLA takes {taken} of {facts['layers']} layers, as far as NVIDIA's documents tell")
    found += [f"not on the DLA: {count} {op}: {reason}" for (op, reason), count in on_gpu.most_common()]
    return tuple(found)


def machine_line(machine: Machine) -> str:
    """The machine in one line: ``Jetson AGX Orin (sm_87), TensorRT 10.3``."""
    gpu = f"{machine.device or 'GPU'} ({sm(machine.capability)})" if machine.capability else "no GPU"
    engines = [
        f"{title} {short(version)}"
        for title, version in (("TensorRT", machine.tensorrt), ("TensorRT-RTX", machine.tensorrt_rtx))
        if version is not None
    ]
    return f"{gpu}, {' and '.join(engines) or 'no TensorRT'}"


def this_build(bundle: Bundle, name: str, machine: Machine, builder: str, *, seconds: float = 0.0) -> PastBuild:
    """A build of the part on this machine, as the history keeps it.

    Args:
        bundle: whose.
        name: the part's.
        machine: this machine.
        builder: ``tensorrt`` or ``tensorrt-rtx``.
        seconds: that it took, where it is over.
    """
    part, version = bundle.part(name), machine.version_of(builder) or ""
    device = device_key(machine)
    # TensorRT-RTX times nothing, so that it has no caches
    warm = builder != "tensorrt-rtx" and any(e.serves(builder, version, device) for e in timing_entries())
    nodes = part.sizes.get("nodes")
    return PastBuild(builder, version, device, bundle.manifest.files[part.graph].sha256, nodes, warm, seconds)


def _expected(bundle: Bundle, name: str, machine: Machine, builder: str | None, history: History) -> Expected:
    if builder is None or machine.capability is None:
        return Expected()
    expected = history.expect(this_build(bundle, name, machine, builder))
    if expected.seconds is not None:
        return expected
    for engine in bundle.part(name).engines:
        built = engine.built or {}
        seconds = built.get("seconds")
        if engine.kind == builder and isinstance(seconds, (int, float)) and seconds > 0:
            where = built.get("device") or "the machine that compiled it"
            return Expected(float(seconds), f"a build on {where}")
    return expected
