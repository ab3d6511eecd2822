"""Opens a bundle, and on the device has its missing engine built first where that is asked."""

from __future__ import annotations

import os
from typing import Literal

from edgebig.bundle import Bundle
from edgebig.runtime import Session
from edgebig.runtime import load as load_here


def load(
    path: str | os.PathLike[str],
    *,
    part: str | None = None,
    prefer: str | None = None,
    threads: int | None = None,
    build: Literal["never", "if-missing"] = "never",
) -> Session:
    """Opens the bundle at ``path`` on the best backend that this machine has.

    Every file is checked against the manifest's SHA-256 before an engine reads it. An engine that ``edgebig
    finish`` keeps elsewhere, for a bundle that cannot be written, is found and checked too.

    Args:
        path: the bundle's folder.
        part: which of the model's graphs, for models with several (``encoder``, ``decoder``).
        prefer: the backend to use and no other (``onnxruntime-cpu``); by default the best that opens.
        threads: threads that one run uses on the CPU; by default as many as the engine finds cores.
        build: ``if-missing`` builds the engine of an NVIDIA target where none runs here, as ``edgebig finish`` does:
            minutes, once. Of several processes one builds and the others wait.

    Raises:
        BundleError: not a bundle, a damaged one, or it has no such part.
        MissingExtra: no engine is installed.
        BackendError: nothing on this machine opens it, or not the preferred backend; with ``if-missing`` also: no
            TensorRT or no GPU is here.
        BuildError, AccuracyError, OutputError, TargetError: with ``if-missing``, as
            :func:`edgebig.device.finish.finish`.
        UsageError: ``threads`` is below 1.
    """
    bundle = Bundle.open(path)
    bundle.part(part)
    if bundle.manifest.target.get("compute_capability") is not None:
        bundle = _with_engines(bundle, part, build == "if-missing")
    return load_here(bundle, part=part, prefer=prefer, threads=threads)


def _with_engines(bundle: Bundle, part: str | None, build: bool) -> Bundle:
    from edgebig.device.store import Store, with_stored

    if not build and not Store(bundle).folder.is_dir():
        return bundle
    from edgebig.device.facts import read_facts
    from edgebig.device.finish import finish
    from edgebig.device.preflight import preflight

    name = part if part is not None else next(iter(bundle.manifest.parts))
    facts = read_facts()
    stored = with_stored(bundle, name, facts.machine)
    if not build or preflight(stored, name, facts.machine).fitting is not None:
        return stored
    return finish(bundle.path, part=name, facts=facts)
