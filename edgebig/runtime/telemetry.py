"""What a session says to the systems that watch it: Prometheus' text, and spans of OpenTelemetry."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from edgebig.errors import BackendError
from edgebig.runtime.core import Trace

if TYPE_CHECKING:
    from edgebig.runtime.session import Session

_METRICS = {
    "calls_total": ("counter", "Runs that gave a result."),
    "errors_total": ("counter", "Calls that raised, deadlines not among them."),
    "drops_total": ("counter", "Results that came after their deadline."),
    "queue_depth": ("gauge", "Runs that wait for a thread."),
    "in_flight": ("gauge", "Runs in threads of their own that have begun."),
    "device_memory_bytes": ("gauge", "What the engine holds of its device's memory."),
    "latency_seconds": ("gauge", "Percentiles of the latest 2048 runs."),
}


def prometheus_text(sessions: Mapping[str, Session]) -> str:
    """The statistics of sessions in Prometheus' text format, version 0.0.4.

    https://prometheus.io/docs/instrumenting/exposition_formats/. A web server gives it out as ``text/plain;
    version=0.0.4``.

    Args:
        sessions: by the name that becomes the label ``model``.
    """
    rows: dict[str, list[str]] = {name: [] for name in _METRICS}
    for model, session in sessions.items():
        stats = session.stats()
        labels = f'model="{_escaped(model)}",backend="{_escaped(session.backend)}"'
        values = {
            "calls_total": stats.calls,
            "errors_total": stats.errors,
            "drops_total": stats.drops,
            "queue_depth": stats.queue_depth,
            "in_flight": stats.in_flight,
            "device_memory_bytes": stats.device_memory,
        }
        for name, value in values.items():
            if value is not None:
                rows[name].append(f"edgebig_{name}{{{labels}}} {value}")
        for part, seconds in (("0.5", stats.p50), ("0.95", stats.p95), ("0.99", stats.p99)):
            if seconds is not None:
                rows["latency_seconds"].append(f'edgebig_latency_seconds{{{labels},quantile="{part}"}} {seconds!r}')
    lines = []
    for name, (kind, text) in _METRICS.items():
        if rows[name]:
            lines += [f"# HELP edgebig_{name} {text}", f"# TYPE edgebig_{name} {kind}", *rows[name]]
    return "\n".join(lines) + "\n" if lines else ""


def opentelemetry_spans(tracer: Any = None) -> Trace:
    """What to give :func:`edgebig.load` as ``trace``, so that every run is a span of OpenTelemetry.

    Args:
        tracer: an OpenTelemetry tracer; by default the global provider's for ``edgebig``.

    Raises:
        BackendError: ``opentelemetry-api`` is not installed.
    """
    if tracer is None:
        try:
            from opentelemetry import trace
        except ImportError as error:
            raise BackendError("spans need OpenTelemetry: pip install opentelemetry-api") from error
        tracer = trace.get_tracer("edgebig")

    def span(name: str, attributes: Mapping[str, Any]) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = tracer.start_as_current_span(name, attributes=dict(attributes))
        return context

    return span


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
