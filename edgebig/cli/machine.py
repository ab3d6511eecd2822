"""What this machine has. Needs the standard library alone; nothing here raises where a thing is absent."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgebig.cli.extras import EXTRAS, absent_modules
from edgebig.device.facts import jetpack_of, read_gpu_clocks, read_power_mode

_EXTENSIONS = {  # Linux's flag in /proc/cpuinfo: the name that people know
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX512F",
    "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "avx512_fp16": "AVX512-FP16",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
    "asimd": "NEON",
    "asimdhp": "FP16",
    "asimddp": "DOTPROD",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
    "sve2": "SVE2",
}
_ENGINES = {"onnxruntime": "onnxruntime", "tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}
_GPU_FIELDS = ("name", "driver_version", "memory.total", "compute_cap")


def machine_facts() -> dict[str, Any]:
    """Python, operating system, processor, memory, GPUs, Jetson, engines and extras, as plain data."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "memory": _memory(),
        "gpus": _gpus(),
        "jetson": _jetson(),
        "engines": {name: _engine(module) for name, module in _ENGINES.items()},
        "extras": {extra: {"complete": not absent_modules(extra), "absent": absent_modules(extra)} for extra in EXTRAS},
    }


def _cpu() -> dict[str, Any]:
    info = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return {
        "model": model[1].strip() if model else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "extensions": [name for flag, name in _EXTENSIONS.items() if flag in flags],
    }


def _memory() -> dict[str, int | None]:
    """Bytes of memory, all of it and what is free for use; ``None`` where the system does not say."""
    info = _read("/proc/meminfo")
    found = {key: re.search(rf"^{key}:\s*(\d+) kB", info, re.MULTILINE) for key in ("MemTotal", "MemAvailable")}
    total, free = (int(m[1]) * 1024 if m else None for m in found.values())
    return {"total_bytes": total, "available_bytes": free}


def _gpus() -> list[dict[str, str]]:
    """What nvidia-smi says of each GPU; empty without it."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    keys = ("name", "driver", "memory", "compute_capability")
    return [dict(zip(keys, row, strict=True)) for row in rows if len(row) == len(keys)]


def _jetson() -> dict[str, str] | None:
    model = _read("/proc/device-tree/model").strip("\0\n ")
    release = _read("/etc/nv_tegra_release")
    found = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", release)
    if not found and not re.search("jetson|orin|xavier|thor", model, re.IGNORECASE):
        return None
    l4t = f"{found[1]}.{found[2]}" if found else "unknown"
    facts = {"jetpack": jetpack_of(l4t), "power_mode": read_power_mode(), "clocks": read_gpu_clocks()[0]}
    return {"model": model or "unknown", "l4t": l4t, **{name: value or "unknown" for name, value in facts.items()}}


def _engine(module: str) -> dict[str, Any] | None:
    """An engine's version and what it offers; ``problem`` where it is installed but does not load."""
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        return None if error.name == module else {"version": _installed(module), "problem": str(error)}
    except Exception as error:  # bindings without their libraries raise whatever they like
        return {"version": _installed(module), "problem": " ".join(str(error).split())}
    found: dict[str, Any] = {"version": str(getattr(loaded, "__version__", "unknown"))}
    if module == "onnxruntime":
        found["providers"] = list(loaded.get_available_providers())
    return found


def _installed(module: str) -> str:
    try:
        return version(module)
    except PackageNotFoundError:
        return "unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
