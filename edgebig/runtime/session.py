"""Session: a loaded model that takes and gives NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from edgebig.errors import BackendError, InputError
from edgebig.runtime.backend import Backend
from edgebig.runtime.checks import InputCheck
from edgebig.spec import TensorSpec


class Session:
    """A loaded model. Made by :func:`edgebig.load`; several threads may call :meth:`run` at once.

    Attributes:
        inputs, outputs: names, dtypes and shapes, in the model's order.
        backend: what runs it (``onnxruntime-cpu``).
        why: for each thing that could have run it, whether it was taken, and why or why not.
    """

    def __init__(
        self,
        backend: Backend,
        name: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        why: Sequence[str] = (),
    ) -> None:
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.backend = name
        self.why = tuple(why)
        self._loaded: Backend | None = backend
        self._check = InputCheck(inputs)
        self._names = [spec.name for spec in outputs]

    def run(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Runs the model once.

        Args:
            inputs: an array for each input, of exactly its dtype, rank and sizes; axes that share a
                name (``batch``) must be of one size. Nothing is cast.
            outputs: which outputs to compute; by default all.

        Returns:
            An array for each output asked, by name.

        Raises:
            InputError: an input or an output's name does not fit.
            BackendError: the engine failed, or the session is closed.
        """
        backend = self._loaded
        if backend is None:
            raise BackendError("the session is closed: load the bundle again")
        names = self._names if outputs is None else self._asked(outputs)
        return dict(zip(names, backend.run(names, self._check(inputs)), strict=True))

    def close(self) -> None:
        """Frees the engine. Closing twice is fine; a run in another thread comes to its end."""
        backend, self._loaded = self._loaded, None
        if backend is not None:
            backend.close()

    def _asked(self, outputs: Sequence[str]) -> list[str]:
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        unknown = [str(name) for name in names if name not in self._names]
        if unknown or not names:
            asked = f"no output {unknown[0]!r}" if unknown else "outputs is empty"
            raise InputError(f"{asked}: the model gives {', '.join(self._names)}")
        return names

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
