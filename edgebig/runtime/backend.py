"""Backend: what a session needs of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Backend(Protocol):
    """One loaded graph or engine. ``run`` may be called from several threads at once."""

    def run(self, outputs: Sequence[str], feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The named outputs, in that order, for checked inputs.

        Raises:
            BackendError: the engine failed.
        """

    def close(self) -> None:
        """Frees what the engine holds."""
