"""TensorSpec: the name, dtype and shape of one input or output. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Dim = int | str | None
NUMPY_HAS = frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    + ["complex64", "complex128"]
)
"""The names of element types that NumPy has."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: the tensor's name in the graph.
        dtype: NumPy's name of the element type (``float32``, ``int64``, ``bool`` …), or
            ``bfloat16`` and ``float8_e4m3fn``, which NumPy lacks.
        shape: one entry for each axis: a size, the name of a dynamic axis, or ``None`` for a
            dynamic axis without a name.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        dims = "x".join("?" if d is None else str(d) for d in self.shape) or "scalar"
        return f"{self.name}: {self.dtype} {dims}"

    @property
    def is_numpy(self) -> bool:
        """Whether NumPy has the element type."""
        return self.dtype in NUMPY_HAS

    @property
    def is_static(self) -> bool:
        """Whether every axis has a size."""
        return all(isinstance(d, int) for d in self.shape)

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TensorSpec:
        """The inverse of :meth:`to_json`."""
        return cls(str(data["name"]), str(data["dtype"]), tuple(data["shape"]))
