"""What of this machine decides whether an engine runs on it, as CUDA and the installed TensorRT tell it."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgebig.bundle import Bundle, Engine
from edgebig.compatibility import Machine, engine_fits, engine_notes, is_same_version, lean_runtime
from edgebig.runtime.gpu.cuda import Cuda
from edgebig.runtime.gpu.plan_header import HEADER_BYTES, plan_header

ANEW = ": copy the bundle anew"
"""Ends what no finish mends."""

_L4T = Path("/etc/nv_tegra_release")


def this_machine(kind: str, tensorrt: Any, cuda: Cuda) -> Machine:
    """The machine with its GPU and the module that runs engines of this kind."""
    version = str(tensorrt.__version__)
    return Machine(
        tensorrt=version if kind == "tensorrt" else None,
        tensorrt_rtx=version if kind == "tensorrt-rtx" else None,
        capability=cuda.capability(),
        driver=cuda.driver(),
        platform=f"{sys.platform}-{platform.machine()}",
        is_jetson=_L4T.exists(),
        lean_runtime=lean_runtime(),
    )


def misfit(bundle: Bundle, engine: Engine, machine: Machine) -> str:
    """Why an engine of a bundle does not run here; empty where it does, as far as its header tells.

    The header's version counts where the manifest says another: it is what TensorRT compares.
    """
    header = plan_header(bundle.peek(engine.path, HEADER_BYTES))
    if header is not None and header.kind != engine.kind:
        return f"{engine.path} is an engine of {header.kind}, the manifest says {engine.kind}{ANEW}"
    if header is not None and not is_same_version(header.version, engine.version):
        engine = replace(engine, version=header.version)
    return engine_fits(engine, machine)


def why_not(bundle: Bundle, engine: Engine, machine: Machine) -> str:
    """As :func:`misfit`, with what mends it."""
    reason = misfit(bundle, engine, machine)
    return f"{reason}: run 'edgebig finish {bundle.path}'" if reason and not reason.endswith(ANEW) else reason


def why_taken(engine: Engine, machine: Machine) -> str:
    """What to say of an engine that fits."""
    here = machine.version_of(engine.kind)
    return "; ".join([f"built with {engine.version}, this machine has {here}", *engine_notes(engine, machine)])
