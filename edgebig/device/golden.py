"""Compares a new engine with the bundle's evidence, before it takes the place of the old one."""

from __future__ import annotations

from collections.abc import Callable

from edgebig.bundle import Bundle, Engine
from edgebig.errors import AccuracyError
from edgebig.runtime import Session, golden, load
from edgebig.runtime.evidence import compare_golden, least_sqnr

OpenEngine = Callable[[Bundle, str, Engine], Session]
"""Opens one engine of a part of a bundle."""


def open_engine(bundle: Bundle, part: str, engine: Engine) -> Session:
    """The engine in the runtime that serves it."""
    return load(bundle, part=part, require=engine.kind)


def check_golden(
    bundle: Bundle, part: str, engine: Engine, opened: OpenEngine = open_engine, min_sqnr: float | None = None
) -> str:
    """Runs the golden inputs through the engine and compares with the original's outputs.

    Args:
        bundle: holds the engine and the golden inputs.
        part: the part's name.
        engine: which of its engines.
        opened: opens it.
        min_sqnr: what every output must reach, in decibels, instead of :func:`least_sqnr`.

    Returns:
        A line that says how near the engine is.

    Raises:
        AccuracyError: an output differs by more, holds NaN or infinity, or has another shape.
        BackendError: the engine does not open or fails.
    """
    pairs = golden(bundle, part)
    if not pairs:
        return f"{part}: not compared: the bundle keeps no golden inputs"
    with opened(bundle, part, engine) as session:
        found = compare_golden(part, pairs, session.run)
    for name, worst in found.items():
        least = least_sqnr(bundle.part(part), name) if min_sqnr is None else min_sqnr
        if not worst.sqnr_db >= least:
            raise AccuracyError(
                f"{part}: the new engine's output {name!r} has an SQNR of {worst.sqnr_db:.1f} dB to the original's, at "
                f"least {least:.1f} dB was expected from the compile: the engine is not taken; allow it with "
                "--min-sqnr, or compile in a more precise format"
            )
    lowest = min(found, key=lambda name: found[name].sqnr_db)
    worst = found[lowest]
    return f"{part}: golden inputs: cosine {worst.cosine:.6f}, SQNR {worst.sqnr_db:.1f} dB (output {lowest})"
