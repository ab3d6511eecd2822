"""What the machine is: GPU, driver, TensorRT, and on a Jetson its release, power mode and clocks.

Every reader takes the root folder or the command's runner, so that it can be shown the files of any device. Nothing
here raises where a thing is absent.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgebig.compatibility import Machine, lean_runtime
from edgebig.device.cuda_driver import CudaDevice, cuda_device

Run = Callable[[Sequence[str]], str | None]
"""Runs a command; gives its output, or ``None`` where it is absent or fails."""

ROOT = Path("/")
_UNNAMED = "Jetson"
_GPU_FIELDS = ("name", "driver_version", "memory.total", "compute_cap")
_GPU_CLOCKS = ("*.gpu", "*.ga10b", "*.gv11b", "*.gp10b", "gpu-gpc-*")
"""The GPU under /sys/class/devfreq: JetPack 6; 5 on Orin; on Xavier; on TX2; Thor."""

_JETPACKS = {
    "32.7": "4.6",
    "35.1": "5.0.2",
    "35.2": "5.1",
    "35.3": "5.1.1",
    "35.4": "5.1.2",
    "35.5": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.4": "5.1.6",
    "35.6": "5.1.5",
    "36.3": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4": "6.2.1",
    "36.5": "6.2.2",
    "38.2": "7.0",
    "38.4": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
    "39.2": "7.2.2",
}
"""JetPack by release of Jetson Linux (L4T), as NVIDIA's JetPack archive pairs them; the longest that fits counts."""

_MODEL = ("proc/device-tree/model", "tmp/nv_jetson_model")
"""Docker hides the device tree from a container; NVIDIA's jetson-containers hand its model in as the second file."""

_JETSON_GPUS = ("7.2", "8.7", "11.0")
"""Compute capabilities of GPUs in a Jetson's own chip: Xavier, Orin, Thor."""


@dataclass(frozen=True)
class Jetson:
    """A Jetson.

    Attributes:
        model: the board, as its device tree names it.
        l4t: release of Jetson Linux, ``36.4.3``; empty if unknown.
        jetpack: the JetPack that brings it, ``6.2``; empty if unknown.
        power_mode: the mode that ``nvpmodel`` has set, ``MAXN_SUPER``; empty if unknown.
        clocks: ``locked`` where ``jetson_clocks`` holds the GPU at one rate, ``free`` where it varies, else empty.
        gpu_hz: the GPU's largest rate in this mode, in hertz.
    """

    model: str
    l4t: str = ""
    jetpack: str = ""
    power_mode: str = ""
    clocks: str = ""
    gpu_hz: int | None = None


@dataclass(frozen=True)
class Gpu:
    """A line of nvidia-smi; empty where it gives none (``[N/A]`` on a Jetson)."""

    name: str
    driver: str
    memory_bytes: int | None
    capability: str


@dataclass(frozen=True)
class Facts:
    """All that is known of a machine.

    Attributes:
        machine: what decides whether an engine runs.
        jetson: ``None`` elsewhere.
        cuda: the newest CUDA that the driver serves; empty if unknown.
        problem: why no GPU is seen; empty where one is.
    """

    machine: Machine
    jetson: Jetson | None = None
    cuda: str = ""
    problem: str = ""

    def built(self) -> dict[str, Any]:
        """What an engine that is built here says of it, as ``Engine.built`` holds it."""
        jetson = self.jetson
        software = f"JetPack {jetson.jetpack}" if jetson and jetson.jetpack else f"L4T {jetson.l4t}" if jetson else ""
        facts = {
            "device": self.machine.device,
            "driver": self.machine.driver,
            "power_mode": jetson.power_mode if jetson else "",
            "clocks": jetson.clocks if jetson else "",
            "software": software.strip(),
            "platform": self.machine.platform,
        }
        return {name: value for name, value in facts.items() if value}

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def run_command(command: Sequence[str]) -> str | None:
    """Runs a command of the system; ``None`` where it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def installed_versions() -> tuple[str | None, str | None]:
    """Versions of TensorRT and TensorRT-RTX, ``None`` where one is not installed."""
    from edgebig.build.flavour import find_flavours

    versions = {flavour.name: flavour.version for flavour in find_flavours()}
    return versions.get("tensorrt"), versions.get("tensorrt-rtx")


def read_facts(
    *,
    root: Path = ROOT,
    run: Run = run_command,
    cuda: CudaDevice | str | None = None,
    versions: tuple[str | None, str | None] | None = None,
) -> Facts:
    """Everything of this machine.

    Args:
        root: where ``/etc``, ``/proc`` and ``/sys`` are.
        run: runs ``nvidia-smi`` and ``nvpmodel``.
        cuda: what the driver says of the GPU, or why it says nothing; asked here by default.
        versions: of TensorRT and TensorRT-RTX; looked up here by default.
    """
    found = cuda_device() if cuda is None else cuda
    jetson, driver = _in_container(read_jetson(root, run), found), read_driver(root)
    gpus = read_gpus(run) if isinstance(found, str) or not driver else []
    gpu = gpus[0] if gpus else Gpu("", "", None, "")
    if isinstance(found, CudaDevice):
        gpu = Gpu(found.name, gpu.driver or f"CUDA {found.cuda}", found.memory_bytes, found.capability)
    tensorrt, rtx = installed_versions() if versions is None else versions
    return Facts(
        Machine(
            tensorrt=tensorrt,
            tensorrt_rtx=rtx,
            capability=gpu.capability or None,
            device=jetson.model if jetson else gpu.name,
            driver=driver or gpu.driver,
            memory_bytes=gpu.memory_bytes or (read_memory(root) if jetson else None),
            platform=f"{sys.platform}-{platform.machine()}",
            is_jetson=jetson is not None,
            dla_cores=None if jetson else 0,
            lean_runtime=lean_runtime(),
        ),
        jetson=jetson,
        cuda=found.cuda if isinstance(found, CudaDevice) else "",
        problem=found if isinstance(found, str) and not gpu.capability else "",
    )


def read_jetson(root: Path = ROOT, run: Run = run_command) -> Jetson | None:
    """The Jetson that this is; ``None`` elsewhere."""
    models = (_text(root / name).strip("\0\n ") for name in _MODEL)
    model = next((text for text in models if text), "")
    l4t = read_l4t(root)
    if not l4t and not re.search(r"jetson|orin|xavier|thor", model, re.IGNORECASE):
        return None
    clocks, rate = read_gpu_clocks(root)
    return Jetson(model or _UNNAMED, l4t, jetpack_of(l4t), read_power_mode(run), clocks, rate)


def _in_container(jetson: Jetson | None, cuda: CudaDevice | str) -> Jetson | None:
    """The Jetson by its GPU, where the files do not tell: a container may show neither its model nor its release."""
    if isinstance(cuda, str) or not cuda.is_integrated or cuda.capability not in _JETSON_GPUS:
        return jetson
    if jetson is not None and jetson.model != _UNNAMED:
        return jetson
    named = f"{_UNNAMED} ({cuda.name}, {cuda.memory_bytes / (1 << 30):.0f} GB)"
    return Jetson(named) if jetson is None else replace(jetson, model=named)


def read_l4t(root: Path = ROOT) -> str:
    """Release of Jetson Linux from ``/etc/nv_tegra_release``: ``36.4.3``; empty where there is none."""
    found = re.search(r"R(\d+)\s*\(release\).*?REVISION:\s*([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return f"{found[1]}.{found[2]}".rstrip(".") if found else ""


def jetpack_of(l4t: str) -> str:
    """The JetPack of a release of Jetson Linux; empty if unknown."""
    fitting = [known for known in _JETPACKS if f"{l4t}.".startswith(f"{known}.")]
    return _JETPACKS[max(fitting, key=len)] if fitting else ""


def read_power_mode(run: Run = run_command) -> str:
    """Name of the power mode from ``nvpmodel -q``; empty where there is none."""
    found = re.search(r"NV Power Mode:\s*(\S+)", run(["nvpmodel", "-q"]) or "")
    return found[1] if found else ""


def read_gpu_clocks(root: Path = ROOT) -> tuple[str, int | None]:
    """The GPU's rate: ``locked`` (least equals most, as ``jetson_clocks`` sets it) or ``free``; and the most, in Hz."""
    for pattern in _GPU_CLOCKS:
        for folder in sorted((root / "sys/class/devfreq").glob(pattern)):
            low, high = _number(folder / "min_freq"), _number(folder / "max_freq")
            if low is not None and high is not None:
                return ("locked" if low == high else "free"), high
    return "", None


def read_gpus(run: Run = run_command) -> list[Gpu]:
    """What nvidia-smi says of each GPU; empty without it."""
    text = run(["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"])
    rows = [[cell.strip() for cell in line.split(",")] for line in (text or "").splitlines()]
    found = []
    for name, driver, memory, capability in (row for row in rows if len(row) == len(_GPU_FIELDS)):
        size = re.fullmatch(r"(\d+) MiB", memory)
        given = capability if re.fullmatch(r"\d+\.\d+", capability) else ""
        version = driver if re.match(r"\d", driver) else ""
        found.append(Gpu(name, version, int(size[1]) << 20 if size else None, given))
    return found


def read_memory(root: Path = ROOT) -> int | None:
    """Bytes of the processor's memory, from ``/proc/meminfo``."""
    return _meminfo(root, "MemTotal")


def read_free_memory(root: Path = ROOT) -> int | None:
    """Bytes of it that programs can still have."""
    return _meminfo(root, "MemAvailable")


def read_driver(root: Path = ROOT) -> str:
    """The driver's version from ``/proc/driver/nvidia/version``; empty where there is none (JetPack 5)."""
    found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", _text(root / "proc/driver/nvidia/version"), re.MULTILINE)
    return found[1] if found else ""


def _meminfo(root: Path, key: str) -> int | None:
    found = re.search(rf"^{key}:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
