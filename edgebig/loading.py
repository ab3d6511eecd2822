"""Opens a bundle, and on the device has its missing engine built first where that is asked."""

from __future__ import annotations

from typing import Literal

from edgebig.bundle import Bundle
from edgebig.errors import UsageError
from edgebig.runtime import Session, SharedDevice
from edgebig.runtime import load as load_here
from edgebig.runtime.core import Source, Trace


def load(
    path: Source,
    *,
    part: str | None = None,
    prefer: str | None = None,
    require: str | None = None,
    threads: int | None = None,
    build: Literal["never", "if-missing"] = "never",
    in_flight: int = 2,
    queue: int = 16,
    check_finite: bool = False,
    trace: Trace | None = None,
    device: SharedDevice | None = None,
    priority: int = 0,
) -> Session:
    """Opens the bundle at ``path`` on the best backend that this machine has.

    Every file is checked against the manifest's SHA-256 before anything of it runs, and before TensorRT reads it.
    An engine that ``edgebig finish`` keeps elsewhere, for a bundle that cannot be written, is found and checked too. A
    warning (``RuntimeWarning``) says when a bundle for an NVIDIA device runs on the CPU instead, or another backend
    than the preferred one was taken.

    Args:
        path: the bundle's folder, or an opened bundle.
        part: which of the model's graphs, for models with several (``encoder``, ``decoder``).
        prefer: the backend to try before the others (``tensorrt``).
        require: the backend to use and no other (``onnxruntime-cpu``).
        threads: threads that one run uses on the CPU; by default as many as the engine finds cores.
        build: ``if-missing`` builds the engine of an NVIDIA target where none runs here, as ``edgebig finish`` does:
            minutes, once. Of several processes one builds and the others wait.
        in_flight: how many runs of :meth:`Session.run_async` take place at a time.
        queue: how many more of them may wait.
        check_finite: whether inputs with NaN or infinity are refused; that costs a pass over each.
        trace: called for each run with a name and attributes, gives the context that the run happens in;
            :func:`edgebig.runtime.telemetry.opentelemetry_spans` makes one.
        device: what the model shares with others, from :func:`edgebig.runtime.share`.
        priority: on the shared device; the higher goes first.

    Raises:
        BundleError: not a bundle, a damaged one, or it has no such part.
        MissingExtra: no engine is installed.
        BackendError: nothing on this machine opens it, or not the required backend, or it does not fit the device;
            with ``if-missing`` also: no TensorRT or no GPU is here.
        BuildError, AccuracyError, OutputError, TargetError: with ``if-missing``, as
            :func:`edgebig.device.finish.finish`.
        UsageError: ``threads``, ``in_flight`` or ``queue`` is below 1, both ``prefer`` and ``require`` are given, or
            ``build`` is something else.
    """
    if build not in ("never", "if-missing"):
        raise UsageError(f"build is never or if-missing, found {build!r}")

    def with_engines(bundle: Bundle) -> Bundle:
        if bundle.manifest.target.get("compute_capability") is None:
            return bundle
        return _with_engines(bundle, part, build == "if-missing")

    return load_here(
        path,
        part=part,
        prefer=prefer,
        require=require,
        threads=threads,
        in_flight=in_flight,
        queue=queue,
        check_finite=check_finite,
        trace=trace,
        device=device,
        priority=priority,
        find_engines=with_engines,
    )


def _with_engines(bundle: Bundle, part: str | None, build: bool) -> Bundle:
    from edgebig.device.store import Store, with_stored

    if not build and not Store(bundle).folder.is_dir():
        return bundle
    from edgebig.device.facts import read_facts
    from edgebig.device.finish import finish
    from edgebig.device.preflight import preflight

    name = part if part is not None else next(iter(bundle.manifest.parts))
    facts = read_facts()
    stored = with_stored(bundle, name, facts.machine)
    if not build or preflight(stored, name, facts.machine).fitting is not None:
        return stored
    return finish(bundle.path, part=name, facts=facts)
