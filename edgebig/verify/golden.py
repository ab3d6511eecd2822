"""Golden inputs: a few inputs with the original's outputs, which the bundle carries as evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

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


class Answers(Sequence[Sample]):
    """Outputs that are computed when somebody first looks at them, and once."""

    def __init__(self, compute: Callable[[], Sequence[Sample]]) -> None:
        self._compute = compute

    @cached_property
    def _found(self) -> Sequence[Sample]:
        return self._compute()

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self._found[index]


def save_golden(golden: Golden, path: Path) -> None:
    """Writes ``in.NAME.I`` and ``out.NAME.I`` for each example I, compressed."""
    arrays: Sample = {}
    for index, (inputs, outputs) in enumerate(zip(golden.inputs, golden.outputs, strict=True)):
        arrays.update({f"in.{name}.{index}": value for name, value in inputs.items()})
        arrays.update({f"out.{name}.{index}": value for name, value in outputs.items()})
    with path.open("wb") as stream:
        # a file object: NumPy would add .npz to other names
        np.savez_compressed(stream, allow_pickle=False, **arrays)
