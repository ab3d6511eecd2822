"""Opening: a bundle to a loaded engine, once and again when a session reloads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgebig.bundle import Bundle, Part
from edgebig.runtime.backend import Measures
from edgebig.runtime.choose import (
    Candidate,
    available_backends,
    first_that_opens,
    preferred_first,
    warn_of_another,
    warn_of_fallback,
)
from edgebig.runtime.core import Loaded, Source
from edgebig.runtime.shapes import Shape
from edgebig.runtime.share import Reservation, SharedDevice, estimated_memory, free_memory

_LOG = logging.getLogger("edgebig.runtime")


@dataclass(frozen=True)
class Opening:
    """How a session's bundle is opened: the arguments of :func:`edgebig.runtime.load`."""

    part: str | None
    prefer: str | None
    require: str | None
    threads: int | None
    check_finite: bool
    device: SharedDevice | None
    find_engines: Callable[[Bundle], Bundle] | None

    def __call__(self, source: Source) -> tuple[Bundle, str, Loaded]:
        """Opens a bundle.

        Returns:
            The bundle, the part's name and the engine.

        Raises:
            BundleError, MissingExtra, BackendError: as :func:`edgebig.runtime.load`.
        """
        bundle = source if isinstance(source, Bundle) else Bundle.open(source)
        chosen = bundle.part(self.part)
        if self.find_engines is not None:
            bundle = self.find_engines(bundle)
        candidates = preferred_first(available_backends(bundle, self.part), self.prefer)
        reservation = self._reserve(bundle, candidates)
        try:
            backend, taken, why = first_that_opens(bundle, candidates, require=self.require, threads=self.threads)
            if reservation is not None and isinstance(backend, Measures):
                try:
                    reservation.measured(backend.device_memory())
                except BaseException:
                    backend.close()
                    raise
        except BaseException:
            if reservation is not None:
                reservation.release()
            raise
        if self.prefer is not None and taken.backend != self.prefer:
            warn_of_another(bundle, self.prefer, taken, why)
        elif self.prefer is None and self.require is None:
            warn_of_fallback(bundle, candidates, taken, why)
        _LOG.info("%s: opened on %s", bundle.path, taken)
        release = None if reservation is None else reservation.release
        usual = usual_shapes(chosen)
        specs = chosen.inputs, chosen.outputs
        name = self.part or next(iter(bundle.manifest.parts))
        return bundle, name, Loaded(backend, taken.backend, *specs, why, usual, self.check_finite, release)

    def _reserve(self, bundle: Bundle, candidates: list[Candidate]) -> Reservation | None:
        if self.device is None:
            return None
        likely = [c for c in candidates if c.usable and self.require in (None, c.backend)]
        if not likely:
            return None
        size = estimated_memory(bundle, self.part, likely[0])
        return self.device.reserve(str(bundle.path), size, free_memory(likely[0]))


def usual_shapes(part: Part) -> Mapping[str, Shape]:
    """The shapes that a part was compiled for: each dynamic input's ``opt`` of the first profile."""
    return {name: tuple(shapes["opt"]) for name, shapes in part.profiles.items() if "opt" in shapes}
