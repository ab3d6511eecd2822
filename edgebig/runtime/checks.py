"""Whether arrays fit a model's inputs. What can be worked out once is, for this runs before every inference.

The outcome hangs on types and shapes alone. So those that passed are remembered, and a second call with them is let
through after a look at each array's type, dtype and shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgebig.errors import InputError
from edgebig.runtime.foreign import as_array, is_foreign, shape_on_device
from edgebig.spec import NUMPY_HAS, TensorSpec

_NDARRAY = np.ndarray
_DTYPES = {name: np.dtype(name) for name in NUMPY_HAS}
_REMEMBERED = 64
"""Sets of shapes; a model with free axes may see no end of them."""

_Passed = dict[tuple[int, ...], "_Passed"]
"""Shapes of the first input that passed, with those of the second that passed beside them, and so on."""


class InputCheck:
    """Refuses arrays that do not fit the specs: names, types, ranks, sizes, and axes that share a name.

    Attributes:
        check_finite: whether it refuses NaN and infinities too.
    """

    def __init__(
        self,
        specs: Sequence[TensorSpec],
        *,
        check_finite: bool = False,
        backend: str = "",
        device_arrays: bool = False,
    ) -> None:
        """Takes the specs apart.

        Args:
            specs: of the model's inputs.
            check_finite: also refuse NaN and infinities, which costs a pass over each array of floats.
            backend: its name, for messages.
            device_arrays: whether it takes arrays on the GPU.
        """
        self._specs = {spec.name: spec for spec in specs}
        self._rows: list[_Row] = []  # made when they are needed
        self._backend, self._device_arrays, self.check_finite = backend, device_arrays, check_finite
        self._count = len(specs)
        self._known = [(spec.name, _DTYPES.get(spec.dtype)) for spec in specs]
        self._passed: _Passed = {}
        self._remembered = 0
        if not check_finite and all(spec.is_static for spec in specs):
            self._remember([spec.shape for spec in specs])  # what passes is known before it came

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """The same inputs as a ``dict``, once all of them fit. Nothing is cast or copied.

        Arrays of other libraries that lie in main memory become NumPy arrays of the same memory.

        Raises:
            InputError: with the first input that does not fit, what was expected and what was found.
        """
        if type(inputs) is dict and len(inputs) == self._count:
            node = self._passed
            for name, dtype in self._known:
                array = inputs.get(name)
                if type(array) is not _NDARRAY or array.dtype is not dtype:
                    break
                node = node.get(array.shape)  # type: ignore[assignment]
                if node is None:
                    break
            else:
                return inputs
        return self._look_closely(inputs)

    def _look_closely(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        feeds = inputs if type(inputs) is dict else self._as_dict(inputs)
        if len(feeds) != self._count:
            self._refuse_names(feeds)
        feeds = self._from_elsewhere(feeds)
        shapes = self._check_each(feeds)
        if self.check_finite:
            for row in self._rows:
                _refuse_not_finite(row.spec, feeds[row.spec.name])
        elif self._remembered < _REMEMBERED:
            self._remember(shapes)
        return feeds

    def _remember(self, shapes: Sequence[tuple[Any, ...]]) -> None:
        self._remembered += 1
        node = self._passed
        for shape in shapes:
            node = node.setdefault(shape, {})

    def _from_elsewhere(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """The feeds with NumPy arrays in place of other libraries' arrays that lie in main memory."""
        if not any(is_foreign(value) for value in feeds.values()):
            return feeds
        taken = {}
        for name, value in feeds.items():
            spec = self._specs.get(name)
            known = spec is not None and is_foreign(value)
            taken[name] = as_array(spec, value, self._backend, self._device_arrays) if known and spec else value
        return taken

    def _check_each(self, feeds: dict[str, Any]) -> list[tuple[int, ...]]:
        """The shapes, in the order of the specs."""
        shapes: list[tuple[int, ...]] = []
        seen: dict[str, tuple[str, int]] = {}
        self._rows = self._rows or _rows(list(self._specs.values()))
        for row in self._rows:
            spec = row.spec
            array = feeds.get(spec.name)
            if not isinstance(array, np.ndarray):
                if spec.name not in feeds:
                    self._refuse_names(feeds)
                if not is_foreign(array):
                    raise _not_an_array(spec, array)
                shape = shape_on_device(spec, array)
            else:
                if row.dtype is None or array.dtype != row.dtype:
                    raise _wrong_dtype(row, array)
                shape = array.shape
            shapes.append(shape)
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
        return shapes

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
        self.dtype = _DTYPES.get(spec.dtype)
        self.rank = len(spec.shape)
        self.static = [(axis, dim) for axis, dim in enumerate(spec.shape) if isinstance(dim, int)]
        self.named = [(axis, dim) for axis, dim in enumerate(spec.shape) if isinstance(dim, str)]
        self.shared: list[tuple[int, str]] = []


def _rows(specs: Sequence[TensorSpec]) -> list[_Row]:
    rows = [_Row(spec) for spec in specs]
    names = [dim for row in rows for _, dim in row.named]
    for row in rows:
        row.shared = [(axis, dim) for axis, dim in row.named if names.count(dim) > 1]
    return rows


def _refuse_not_finite(spec: TensorSpec, array: Any) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fc":
        return
    finite = np.isfinite(array)
    if not finite.all():
        where = ", ".join(str(axis[0]) for axis in np.nonzero(~np.atleast_1d(finite)))
        raise InputError(
            f"input {spec.name!r} holds {array.size - int(finite.sum())} values that are not finite, "
            f"the first at [{where}]: mend what makes it, or load without check_finite"
        )


def no_dtype(spec: TensorSpec) -> InputError:
    """For an input of a type that no array of NumPy's has, or of text."""
    if spec.dtype == "string":
        return InputError(f"input {spec.name!r} is text, sessions take numbers: leave the steps that read text out")
    return InputError(
        f"input {spec.name!r} is {spec.dtype}, which NumPy lacks: compile the model with float32 or float16 inputs"
    )


def _not_an_array(spec: TensorSpec, found: object) -> InputError:
    return InputError(
        f"input {spec.name!r} must be a NumPy array ({_expected(spec)}), found {type(found).__name__}: "
        f"pass np.asarray(value, dtype=np.{spec.dtype})"
    )


def _wrong_dtype(row: _Row, array: np.ndarray[Any, Any]) -> InputError:
    spec = row.spec
    if row.dtype is None:
        return no_dtype(spec)
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
