"""Reload: whether a new engine may take the place of one that runs."""

from __future__ import annotations

import logging

from edgebig.errors import AccuracyError, InputError
from edgebig.runtime.core import Loaded, Reopen, Source
from edgebig.runtime.evidence import compare_golden, least_sqnr
from edgebig.runtime.golden import Arrays, golden

_LOG = logging.getLogger("edgebig.runtime")


def reloaded(reopen: Reopen, source: Source, old: Loaded, allow_changes: bool) -> Loaded:
    """The new engine, opened, compared with the old one's specs, and asked for its golden outputs.

    It also is warm then: its memory is allocated. Where it is refused, it is closed.

    Raises:
        BundleError, MissingExtra, BackendError: it does not open.
        InputError: it takes or gives something else, and ``allow_changes`` is not set.
        AccuracyError: an output has a lower signal to noise ratio than the compile lets expect.
    """
    bundle, part, fresh = reopen(source)
    try:
        if not allow_changes:
            _refuse_changes(str(bundle.path), old, fresh)

        def run(inputs: Arrays) -> Arrays:
            return dict(zip(fresh.names, fresh.run(fresh.names, fresh.check(inputs)), strict=True))

        found = compare_golden(part, golden(bundle, part), run)
        for name, worst in found.items():
            least = least_sqnr(bundle.part(part), name)
            if not worst.sqnr_db >= least:
                raise AccuracyError(
                    f"{bundle.path}: its output {name!r} has an SQNR of {worst.sqnr_db:.1f} dB to the original's, at "
                    f"least {least:.1f} dB was expected from the compile: the session stays with the bundle it has; "
                    "compile the model again"
                )
    except BaseException:
        fresh.close()
        raise
    _LOG.info("%s: reloaded on %s, %d golden outputs compared", bundle.path, fresh.name, len(found))
    return fresh


def _refuse_changes(path: str, old: Loaded, fresh: Loaded) -> None:
    for side, before, after in (("input", old.inputs, fresh.inputs), ("output", old.outputs, fresh.outputs)):
        if [(s.name, s.dtype, s.shape) for s in before] != [(s.name, s.dtype, s.shape) for s in after]:
            has, had = (", ".join(map(str, specs)) for specs in (after, before))
            raise InputError(
                f"{path} has the {side}s {has}, the session's are {had}: it stays with the bundle it has; "
                "open the new one on its own, or allow it with allow_changes=True"
            )
