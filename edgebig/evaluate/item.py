"""Item: what one label belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Item:
    """One labelled item.

    Attributes:
        where: names it: a file, and its line or row where the file holds several.
        samples: what the model is run on, an array for each input: one sample for most items, several for a
            recording that is cut into pieces, two for a pair of sentences.
        label: as :func:`edgebig.evaluate.typed_label` gives it; ``None`` where there is none.
    """

    where: str
    samples: tuple[Mapping[str, Array], ...]
    label: Any = None
