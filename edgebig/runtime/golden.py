"""A bundle's golden inputs, with what the original model gave for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgebig.bundle import Bundle
from edgebig.errors import BundleError

Arrays = dict[str, np.ndarray[Any, Any]]


def golden(bundle: Bundle, part: str | None = None) -> list[tuple[Arrays, Arrays]]:
    """Pairs of inputs and the original's outputs, in the order in which they were recorded.

    Empty where the part keeps none. The file's arrays are named ``in.NAME.I`` and ``out.NAME.I``
    with the pair's number ``I``; a name may hold dots and slashes itself.

    Raises:
        BundleError: no such part, or the file is damaged.
    """
    name = bundle.part(part).golden
    if name is None:
        return []
    path = bundle.file(name)
    pairs: dict[int, tuple[Arrays, Arrays]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                side, tensor, number = _take_apart(key)
                array = arrays[key]
                if array.dtype.kind in "US":
                    raise ValueError(f"the array {key!r} holds text")
                pairs.setdefault(number, ({}, {}))[side][tensor] = array
    except Exception as error:  # zipfile, zlib and NumPy have a dozen kinds for a damaged file
        raise BundleError(f"{bundle.path}: {name} holds no golden arrays: {error}: compile the model again") from error
    return [pairs[number] for number in sorted(pairs)]


def _take_apart(key: str) -> tuple[int, str, int]:
    """0 for an input or 1 for an output, the tensor's name, the pair's number."""
    side, _, rest = key.partition(".")
    tensor, _, number = rest.rpartition(".")
    if side not in ("in", "out") or not tensor or not number.isdecimal():
        raise ValueError(f"the array {key!r} is not named in.NAME.I or out.NAME.I")
    return ("in", "out").index(side), tensor, int(number)
