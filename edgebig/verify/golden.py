"""Golden inputs: a few inputs with the original's outputs, which the bundle carries as evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Sample = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Golden:
    """Inputs and what the original answers.

    Attributes:
        inputs: one mapping for each example.
        outputs: the original's, in the same order.
        source: where the inputs come from.
    """

    inputs: Sequence[Sample]
    outputs: Sequence[Sample]
    source: str


def save_golden(golden: Golden, path: Path) -> None:
    """Writes ``in.NAME.I`` and ``out.NAME.I`` for each example I, compressed."""
    arrays: Sample = {}
    for index, (inputs, outputs) in enumerate(zip(golden.inputs, golden.outputs, strict=True)):
        arrays.update({f"in.{name}.{index}": value for name, value in inputs.items()})
        arrays.update({f"out.{name}.{index}": value for name, value in outputs.items()})
    with path.open("wb") as stream:
        # a file object: NumPy would add .npz to other names
        np.savez_compressed(stream, allow_pickle=False, **arrays)
