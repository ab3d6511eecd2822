"""Evidence: how near an engine comes to the original model on the bundle's golden inputs, and how near it must."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgebig.bundle import Part
from edgebig.errors import AccuracyError
from edgebig.runtime.golden import Arrays
from edgebig.similarity import Similarity, compare

_ENOUGH_DB = 30.0
"""Noise of 3 % of the signal: what other kernels, TF32 and FP16 sums may make of an exact graph."""

_MORE_NOISE_DB = 6.0
"""Twice the noise that the graph had where it was compiled."""

_UNMEASURED_DB = 20.0
"""Where the compile could not run the graph (BF16 on a CPU): noise of a tenth of the signal."""


def least_sqnr(part: Part, output: str) -> float:
    """The signal to noise ratio in decibels that an output must reach, from what it had at the compile."""
    evidence = part.similarity.get(output)
    if evidence is None or "sqnr_db" not in evidence:
        return _UNMEASURED_DB
    return min(evidence["sqnr_db"] - _MORE_NOISE_DB, _ENOUGH_DB)


def compare_golden(
    part: str, pairs: Sequence[tuple[Arrays, Arrays]], run: Callable[[Arrays], Mapping[str, Any]]
) -> dict[str, Similarity]:
    """How near each output comes to the original's on the golden inputs: the worst of them.

    Args:
        part: the part's name, for messages.
        pairs: from :func:`golden`.
        run: computes the outputs of some inputs.

    Raises:
        AccuracyError: an output is missing or of another shape.
        BackendError: the engine failed.
    """
    found: dict[str, list[Similarity]] = {}
    for inputs, expected in pairs:
        answers = run(inputs)
        for name, array in expected.items():
            if name not in answers or answers[name].shape != array.shape:
                has = answers[name].shape if name in answers else "no such output"
                raise AccuracyError(f"{part}: the engine's output {name!r} should be {array.shape}, found {has}")
            found.setdefault(name, []).append(compare(array, answers[name]))
    return {name: Similarity.worst(several) for name, several in found.items()}
