"""Backend: what a session needs of an engine, and what an engine may offer on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

Array = np.ndarray[Any, Any]

CLOSED = "the session is closed: load the bundle again"
"""What every use of a closed session or engine raises, as a ``BackendError``."""


class Backend(Protocol):
    """One loaded graph or engine. ``run`` may be called from several threads at once.

    Feeds were checked: every input is there, of its dtype, rank and sizes. They are NumPy arrays, which may be
    read-only and non-contiguous. A backend with an attribute ``takes_device_arrays = True`` gets arrays on the GPU
    as the caller gave them: objects with ``__cuda_array_interface__``, or with ``__dlpack__`` and a
    ``__dlpack_device__`` that is not the CPU. Dtype and shape were compared with the spec; that they lie on its own
    device, and waiting for what still writes them, is the backend's task. Outputs are NumPy arrays.

    What else it can do it shows by having the methods of :class:`Binds`, :class:`Cancels` and :class:`Measures`.
    """

    def run(self, outputs: Sequence[str], feeds: dict[str, Array]) -> list[Array]:
        """The named outputs, in that order, for checked inputs.

        Raises:
            BackendError: the engine failed, or was closed.
        """

    def close(self) -> None:
        """Frees what the engine holds. A run in another thread comes to its end first."""


class Bound(Protocol):
    """Buffers tied to a backend; one thread uses it at a time."""

    def run(self) -> Sequence[Array]:
        """Computes from what the input buffers hold now, and writes the output buffers.

        Returns:
            New arrays for the outputs that were bound without a buffer, in the order in which they were bound.

        Raises:
            BackendError: the engine failed or was closed, or an output does not fit its buffer.
        """

    def close(self) -> None:
        """Lets go of the buffers."""


@runtime_checkable
class Binds(Protocol):
    """A backend that computes from fixed buffers without a copy or an allocation in each call.

    For one that lacks it, :class:`edgebig.runtime.binding.CopiedBuffers` stands in.
    One with an attribute ``takes_any_buffer = True`` binds contiguous arrays that :meth:`buffer` did not make, too.
    """

    def buffer(self, shape: tuple[int, ...], dtype: str) -> Array:
        """A zeroed, contiguous array in main memory of the kind that the engine transfers fastest (page-locked)."""

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> Bound:
        """Ties buffers, each made by :meth:`buffer`, to the engine. ``None`` for an output whose shape is not known.

        Raises:
            BackendError: the engine takes no such shapes, or was closed.
        """


@runtime_checkable
class Cancels(Protocol):
    """A backend that can be told to give up a run that nobody waits for any more."""

    def token(self) -> Any:
        """What one run listens to; it has an attribute ``terminate``, which another thread may set to ``True``."""

    def run_until(self, token: Any, outputs: Sequence[str], feeds: dict[str, Array]) -> list[Array]:
        """As :meth:`Backend.run`, but fails soon after ``token.terminate`` was set.

        Raises:
            BackendError: as there, or it was told to stop.
        """


@runtime_checkable
class Measures(Protocol):
    """A backend that knows how much of its device's memory it holds."""

    def device_memory(self) -> int:
        """Bytes of the device's memory: the engine, contexts and buffers."""


@runtime_checkable
class KeepsOnDevice(Protocol):
    """A backend whose outputs can stay in its device's memory."""

    def run_on_device(self, outputs: Sequence[str], feeds: dict[str, Array]) -> list[Any]:
        """As :meth:`Backend.run`, but gives arrays of the device: with DLPack and ``__cuda_array_interface__``.

        They are the caller's: no later run writes into them, and they outlive the backend.

        Raises:
            BackendError: the engine failed, or was closed.
        """
