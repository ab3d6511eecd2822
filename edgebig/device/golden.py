"""Compares a new engine with the bundle's evidence, before it takes the place of the old one."""

from __future__ import annotations

from collections.abc import Callable

from edgebig.bundle import Bundle, Engine, Part
from edgebig.errors import AccuracyError
from edgebig.runtime import Session, golden, load
from edgebig.similarity import Similarity, compare

OpenEngine = Callable[[Bundle, str, Engine], Session]
"""Opens one engine of a part of a bundle."""

_ENOUGH_DB = 30.0
"""Noise of 3 % of the signal: what other kernels, TF32 and FP16 sums may make of an exact graph."""

_MORE_NOISE_DB = 6.0
"""Twice the noise that the graph had where it was compiled."""

_UNMEASURED_DB = 20.0
"""Where the compile could not run the graph (BF16 on a CPU): noise of a tenth of the signal."""


def open_engine(bundle: Bundle, part: str, engine: Engine) -> Session:
    """The engine in the runtime that serves it."""
    return load(bundle, part=part, prefer=engine.kind)


def least_sqnr(part: Part, output: str) -> float:
    """The signal to noise ratio in decibels that an output must reach, from what it had at the compile."""
    evidence = part.similarity.get(output)
    if evidence is None:
        return _UNMEASURED_DB
    return min(evidence["sqnr_db"] - _MORE_NOISE_DB, _ENOUGH_DB)


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
    found: dict[str, list[Similarity]] = {}
    with opened(bundle, part, engine) as session:
        for inputs, expected in pairs:
            answers = session.run(inputs)
            for name, array in expected.items():
                if name not in answers or answers[name].shape != array.shape:
                    has = answers[name].shape if name in answers else "no such output"
                    raise AccuracyError(f"{part}: the engine's output {name!r} should be {array.shape}, found {has}")
                found.setdefault(name, []).append(compare(array, answers[name]))
    lowest = min(found, key=lambda name: Similarity.worst(found[name]).sqnr_db)
    for name, several in found.items():
        worst = Similarity.worst(several)
        least = least_sqnr(bundle.part(part), name) if min_sqnr is None else min_sqnr
        if not worst.sqnr_db >= least:
            raise AccuracyError(
                f"{part}: the new engine's output {name!r} has an SQNR of {worst.sqnr_db:.1f} dB to the original's, at "
                f"least {least:.1f} dB was expected from the compile: the engine is not taken; allow it with "
                "--min-sqnr, or compile in a more precise format"
            )
    worst = Similarity.worst(found[lowest])
    return f"{part}: golden inputs: cosine {worst.cosine:.6f}, SQNR {worst.sqnr_db:.1f} dB (output {lowest})"
