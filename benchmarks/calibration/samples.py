"""Samples in one file, read one at a time: an .npz whose arrays are named INDEX/INPUT."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Sample = dict[str, np.ndarray[Any, Any]]


def write(path: Path, samples: Iterable[Mapping[str, np.ndarray[Any, Any]]]) -> None:
    """Writes samples, each a mapping from input name to array."""
    arrays = {f"{index}/{name}": array for index, sample in enumerate(samples) for name, array in sample.items()}
    np.savez(path, allow_pickle=False, **arrays)


def read(path: Path, count: int) -> Iterator[Sample]:
    """So many samples; when all were read, again from the first, every array rolled by the number of the turn."""
    with np.load(path) as file:
        names: dict[int, list[str]] = defaultdict(list)
        for key in file.files:
            index, name = key.split("/", 1)
            names[int(index)].append(name)
        for number in range(count):
            turn, index = divmod(number, len(names))
            sample = {name: file[f"{index}/{name}"] for name in names[index]}
            # rolled pictures are other samples with the same values; token ids stay as they are
            yield {k: np.roll(v, turn, axis=-1) if turn and v.dtype.kind == "f" else v for k, v in sample.items()}
