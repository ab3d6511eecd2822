"""States: which outputs of a model become inputs of its next run. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgebig.spec import TensorSpec

_STATE_OUTPUT = ("{}N", "{}_n", "{}n", "{}_out", "{}_output", "new_{}", "next_{}", "{}_next")
_CACHE = re.compile(r"^past_key_values\.")


def find_states(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Pairs of a state input and the output that becomes it, by the usual names and equal rank and dtype.

    ``state`` and ``stateN``, ``h`` and ``h_out``, ``past_key_values.0.key`` and ``present.0.key``.
    """
    given = {spec.name: spec for spec in outputs}
    found = {}
    for spec in inputs:
        names = [_CACHE.sub("present.", spec.name)] if _CACHE.match(spec.name) else []
        names += [form.format(spec.name) for form in _STATE_OUTPUT]
        for name in names:
            output = given.get(name)
            if output is not None and output.dtype == spec.dtype and len(output.shape) == len(spec.shape):
                found[spec.name] = name
                break
    return found
