"""Whether arrays fit a model's inputs. What can be worked out once is, for this runs before every inference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgebig.errors import InputError
from edgebig.spec import TensorSpec

_NUMPY_HAS = frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    + ["complex64", "complex128"]
)


class InputCheck:
    """Refuses arrays that do not fit the specs: names, types, ranks, sizes, and axes that share a name."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._rows = [_Row(spec) for spec in specs]
        axes = [(row, axis, dim) for row in self._rows for axis, dim in enumerate(row.spec.shape)]
        count = Counter(dim for _, _, dim in axes if isinstance(dim, str))
        for row, axis, dim in axes:
            if isinstance(dim, str) and count[dim] > 1:
                row.shared.append((axis, dim))

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """The same inputs as a ``dict``, once all of them fit. Nothing is cast or copied.

        Raises:
            InputError: with the first input that does not fit, what was expected and what was found.
        """
        feeds = inputs if type(inputs) is dict else self._as_dict(inputs)
        if len(feeds) != len(self._rows):
            self._refuse_names(feeds)
        seen: dict[str, tuple[str, int]] = {}
        for row in self._rows:
            spec = row.spec
            array = feeds.get(spec.name)
            if not isinstance(array, np.ndarray):
                if spec.name not in feeds:
                    self._refuse_names(feeds)
                raise _not_an_array(spec, array)
            if row.dtype is None or array.dtype != row.dtype:
                raise _wrong_dtype(row, array)
            shape = array.shape
            if len(shape) != row.rank:
                raise _wrong_rank(spec, shape)
            for axis, size in row.static:
                if shape[axis] != size:
                    raise _wrong_size(spec, axis, size, shape)
            for axis, dim in row.shared:
                first = seen.setdefault(dim, (spec.name, shape[axis]))
                if first[1] != shape[axis]:
                    raise InputError(
                        f"the axis {dim!r} must be of one size: input {first[0]!r} has {first[1]}, "
                        f"input {spec.name!r} has {shape[axis]} (axis {axis} of {_shape(shape)})"
                    )
        return feeds

    def _as_dict(self, inputs: Any) -> dict[str, Any]:
        if isinstance(inputs, Mapping):
            return dict(inputs)
        raise InputError(f"inputs must be a dict of arrays by name ({self._all()}), found {type(inputs).__name__}")

    def _refuse_names(self, feeds: Mapping[str, Any]) -> None:
        missing = [name for name in self._specs if name not in feeds]
        unknown = [str(name) for name in feeds if name not in self._specs]
        found = [f"{', '.join(missing)} missing"] * bool(missing) + [f"{', '.join(unknown)} unknown"] * bool(unknown)
        raise InputError(f"the model takes {self._all()}; of the inputs given: {'; '.join(found)}")

    def _all(self) -> str:
        return ", ".join(str(spec) for spec in self._specs.values()) or "no inputs"


class _Row:
    """One input's spec, taken apart for the check."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.dtype = np.dtype(spec.dtype) if spec.dtype in _NUMPY_HAS else None
        self.rank = len(spec.shape)
        self.static = [(axis, dim) for axis, dim in enumerate(spec.shape) if isinstance(dim, int)]
        self.shared: list[tuple[int, str]] = []


def _not_an_array(spec: TensorSpec, found: object) -> InputError:
    return InputError(
        f"input {spec.name!r} must be a NumPy array ({_expected(spec)}), found {type(found).__name__}: "
        f"pass np.asarray(value, dtype=np.{spec.dtype})"
    )


def _wrong_dtype(row: _Row, array: np.ndarray[Any, Any]) -> InputError:
    spec = row.spec
    if row.dtype is None:
        return InputError(
            f"input {spec.name!r} is {spec.dtype}, which NumPy lacks: compile the model with float32 or float16 inputs"
        )
    found = f"{array.dtype} {_shape(array.shape)}"
    if array.dtype.hasobject:
        return InputError(
            f"input {spec.name!r} must be {_expected(spec)}, found an array of Python objects ({found}): "
            "its rows may differ in length"
        )
    return InputError(
        f"input {spec.name!r} must be {_expected(spec)}, found {found}: convert it with .astype(np.{spec.dtype})"
    )


def _wrong_rank(spec: TensorSpec, shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"input {spec.name!r} must have {len(spec.shape)} axes ({_expected(spec)}), "
        f"found {len(shape)} ({_shape(shape)})"
    )


def _wrong_size(spec: TensorSpec, axis: int, size: int, shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"axis {axis} of input {spec.name!r} must be {size} ({_expected(spec)}), found {shape[axis]} ({_shape(shape)})"
    )


def _expected(spec: TensorSpec) -> str:
    return str(spec).removeprefix(f"{spec.name}: ")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
