"""Ranges: the smallest and largest value of each tensor over all samples."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Range:
    """Smallest and largest value that a tensor took."""

    min: float
    max: float

    @property
    def magnitude(self) -> float:
        """Largest absolute value."""
        return max(abs(self.min), abs(self.max))

    def merge(self, other: Range) -> Range:
        """The range that holds both."""
        return Range(min(self.min, other.min), max(self.max, other.max))


@dataclass(frozen=True)
class Ranges:
    """Ranges by tensor name, and what they were collected from.

    Attributes:
        by_tensor: the range of each observed tensor.
        samples: number of samples that were run.
        method: how ranges were made of the values.
        source: what the samples were.
    """

    by_tensor: Mapping[str, Range]
    samples: int
    method: str
    source: str

    def merge(self, other: Ranges) -> Ranges:
        """For each tensor of either the range that holds both."""
        joined = {
            name: found.merge(self.by_tensor[name]) if name in self.by_tensor else found
            for name, found in other.by_tensor.items()
        }
        return Ranges({**self.by_tensor, **joined}, self.samples + other.samples, self.method, self.source)

    def get(self, tensor: str) -> Range | None:
        """The tensor's range, ``None`` where it was not observed."""
        return self.by_tensor.get(tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_tensor)

    def to_json(self) -> dict[str, Any]:
        """As plain data; infinities, which JSON lacks, become strings."""
        ranges = {k: {"min": _plain(r.min), "max": _plain(r.max)} for k, r in self.by_tensor.items()}
        return {"method": self.method, "samples": self.samples, "source": self.source, "ranges": ranges}

    def save(self, path: Path) -> None:
        """Writes them as JSON."""
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """The inverse of :meth:`save`."""
        data = json.loads(path.read_text(encoding="utf-8"))
        ranges = {k: Range(float(v["min"]), float(v["max"])) for k, v in data["ranges"].items()}
        return cls(ranges, data["samples"], data["method"], data["source"])


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
