"""Which engines run on which machine, by NVIDIA's rules. Standard library only; nothing is deserialized.

The rules, each with the document that states it:

- An engine of TensorRT runs on the version that built it, "major, minor, patch, and build":
  [E] Version Compatibility; [D] Release Properties.
- Built with ``VERSION_COMPATIBLE`` it also runs on later versions of the same major version, and across major versions
  on two pairs alone, 8 to 10 and 10 to 11: [S] Engine Portability. There TensorRT's lean runtime of the version that
  built it runs it. Engines of ours hold none, since it is host code (``EXCLUDE_LEAN_RUNTIME``), so that it must be
  installed and named: [L] load_runtime.
- An engine of TensorRT-RTX runs on the release that built it and on no other: [R] Version Compatibility.
- An engine runs on the compute capability that it was built on, and one of TensorRT-RTX on each that it names:
  [S] Engine Portability; [C] Specifying Target Compute Capabilities.
- Built with ``AMPERE_PLUS`` it also runs on all compute capabilities from 8.0: [H] kAMPERE_PLUS; not on JetPack, where
  the level does not exist: [G] Hardware Compatibility.
- Another model of GPU with the same compute capability takes it, and TensorRT warns: [G] Compatibility Checks. So
  that is a note (:func:`engine_notes`), not a refusal; built with ``SAME_COMPUTE_CAPABILITY`` it is made for them all.
- An engine of TensorRT does not move between operating systems or processors: [S] Engine Portability. One of
  TensorRT-RTX does: [C].
- An engine with layers on a DLA needs one: AGX Orin and Orin NX with JetPack 6 (TensorRT up to 10.7), AGX Orin with
  JetPack 7.2.2 (11.4.1): [N].

[E] docs.nvidia.com/deeplearning/tensorrt/11.1.0/inference-library/engine-compatibility.html
[S] docs.nvidia.com/deeplearning/tensorrt/11.4.1/getting-started/support-matrix.html
[D] TensorRT 10.10.10 Release Notes for DRIVE OS 7.0.3, Release Properties
[R] docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/engine-compatibility.html
[C] docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html
[L] docstrings of TensorRT's Python bindings 10.3 to 11.4, class Runtime
[H] NvInfer.h, enum HardwareCompatibilityLevel
[G] NVIDIA TensorRT Developer Guide 8.6, chapter Advanced Topics
[N] docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/release-notes-11/11.4.1.html
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from edgebig.manifest import Engine

_ACROSS_MAJORS = {(8, 10), (10, 11)}
_AMPERE = (8, 0)
_LAST_DLA, _NEW_DLA = (10, 7, 1 << 30), (11, 4, 1)
_NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_LEAN_RUNTIME = "EDGEBIG_LEAN_RUNTIME"

Version = tuple[int, ...]


@dataclass(frozen=True)
class Machine:
    """What decides whether an engine runs on a machine.

    Attributes:
        tensorrt, tensorrt_rtx: versions installed; ``None`` where one is not.
        capability: the GPU's compute capability (``8.7``); ``None`` where there is no GPU.
        device: the GPU's name, or the Jetson's model.
        driver: the driver's version, as far as it is known.
        memory_bytes: the GPU's memory, which a Jetson shares with its processor; ``None`` if unknown.
        platform: operating system and processor, ``linux-aarch64``; empty if unknown.
        is_jetson: whether it runs JetPack.
        dla_cores: number of deep learning accelerators that TensorRT may use; ``None`` if unknown.
        lean_runtime: the file of an older TensorRT's lean runtime (``libnvinfer_lean.so.10``); empty: none is named.
    """

    tensorrt: str | None = None
    tensorrt_rtx: str | None = None
    capability: str | None = None
    device: str = ""
    driver: str = ""
    memory_bytes: int | None = None
    platform: str = ""
    is_jetson: bool = False
    dla_cores: int | None = None
    lean_runtime: str = ""

    def version_of(self, kind: str) -> str | None:
        """The installed version of ``tensorrt`` or ``tensorrt-rtx``."""
        return {"tensorrt": self.tensorrt, "tensorrt-rtx": self.tensorrt_rtx}.get(kind)


def lean_runtime() -> str:
    """The file of an older TensorRT's lean runtime, as ``EDGEBIG_LEAN_RUNTIME`` names it; empty where it is not set."""
    return os.environ.get(_LEAN_RUNTIME, "")


def engine_fits(engine: Engine, machine: Machine) -> str:
    """Whether the engine runs there: empty, or the reason why not, in plain words.

    Says nothing of engines of other kinds than ``tensorrt`` and ``tensorrt-rtx``: they fit.

    Returns:
        For example ``built for TensorRT 10.3 on sm_87; this machine has 11.4 on sm_110``.
    """
    if engine.kind not in _NAMES:
        return ""
    name, here = _NAMES[engine.kind], machine.version_of(engine.kind)
    built = f"built for {name} {short(engine.version)} on {_sms(engine.hardware)}"
    if here is None:
        return f"{built}; this machine has no {name}"
    if machine.capability is None:
        return f"{built}; this machine has no GPU that the driver shows"
    fits = is_same_version(engine.version, here) or _has_its_runtime(engine, machine, here)
    if not (fits and _capability_fits(engine, machine)):
        same = short(here) == short(engine.version) and not fits
        # two builds of one release differ further behind
        built = f"built for {name} {engine.version} on {_sms(engine.hardware)}" if same else built
        needs = f" and no lean runtime of {engine.version}" if not fits and _is_compatible(engine, here) else ""
        return f"{built}; this machine has {here if same else short(here)} on {sm(machine.capability)}{needs}"
    return _elsewhere(engine, machine, built)


def is_same_version(built: str, here: str) -> bool:
    """Whether two versions are equal in the numbers that both name: some leave out the build number."""
    ours, theirs = numbers(built), numbers(here)
    known = min(len(ours), len(theirs))
    return known >= 2 and ours[:known] == theirs[:known]


def has_dla(version: str) -> bool:
    """Whether that TensorRT uses DLAs where a device has them: up to 10.7, and from 11.4.1, by [N]."""
    return not _LAST_DLA < numbers(version)[:3] < _NEW_DLA


def engine_notes(engine: Engine, machine: Machine) -> tuple[str, ...]:
    """What a person should know of an engine that fits: it may be slower there than one that is built there."""
    notes = []
    built = engine.built or {}
    device, is_for_all = str(built.get("device") or ""), built.get("hardware_level") == "same-capability"
    if engine.kind == "tensorrt" and device and machine.device and device != machine.device and not is_for_all:
        notes.append(
            f"built on {device}, this is {machine.device}: TensorRT advises against another model of GPU, even with "
            "the same compute capability"
        )
    here = machine.version_of(engine.kind)
    if here is not None and engine.version_compatible and not is_same_version(engine.version, here):
        notes.append(f"a version-compatible engine of TensorRT {short(engine.version)}: one built here may be faster")
    if machine.capability is not None and machine.capability not in engine.hardware and engine.hardware_compatible:
        notes.append("a hardware-compatible engine: one built here may be faster")
    return tuple(notes)


def numbers(version: str) -> Version:
    """``10.3.0.30`` as ``(10, 3, 0, 30)``."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:4])


def short(version: str) -> str:
    """Major and minor number, as people say them."""
    return ".".join(map(str, numbers(version)[:2])) or version


def sm(capability: str) -> str:
    """``8.7`` as ``sm_87``."""
    return "sm_" + capability.replace(".", "")


def _sms(capabilities: tuple[str, ...]) -> str:
    return ", ".join(map(sm, capabilities)) or "no GPU"


def _has_its_runtime(engine: Engine, machine: Machine, here: str) -> bool:
    return bool(machine.lean_runtime) and _is_compatible(engine, here)


def _is_compatible(engine: Engine, here: str) -> bool:
    """Whether the engine was built so that the lean runtime of its version runs it under the version here."""
    built, found = numbers(engine.version), numbers(here)
    if engine.kind != "tensorrt" or not engine.version_compatible or not built or not found:
        return False
    return found >= built and (found[0] == built[0] or (built[0], found[0]) in _ACROSS_MAJORS)


def _capability_fits(engine: Engine, machine: Machine) -> bool:
    if machine.capability is None or machine.capability in engine.hardware:
        return machine.capability is not None
    if not engine.hardware_compatible or machine.is_jetson or engine.dla is not None:
        return False
    return numbers(machine.capability) >= _AMPERE and all(numbers(c) >= _AMPERE for c in engine.hardware)


def _elsewhere(engine: Engine, machine: Machine, built: str) -> str:
    platform = str((engine.built or {}).get("platform") or "")
    if engine.kind == "tensorrt" and platform and machine.platform and platform != machine.platform:
        return f"{built} and {platform}; this machine is {machine.platform}"
    if engine.dla is not None and machine.dla_cores is not None and engine.dla >= machine.dla_cores:
        found = f"has {machine.dla_cores} DLA cores" if machine.dla_cores else "has no DLA"
        return f"{built} and DLA core {engine.dla}; this machine {found}"
    return ""
