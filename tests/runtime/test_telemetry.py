"""What is said to those who watch."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from edgebig.errors import BackendError, InputError
from edgebig.runtime import load
from edgebig.runtime.telemetry import opentelemetry_spans, prometheus_text

X = {"x": np.zeros((1, 3), np.float32)}


def test_prometheus_reads_counts_and_percentiles(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1) as first, load(tmp_path / "b", threads=1) as second:
        for _ in range(3):
            first.run(X)
        with pytest.raises(InputError):
            first.run({})
        text = prometheus_text({"lanes": first, 'odd "name"\n\\': second})
        stats = first.stats()
    lines = text.splitlines()
    assert text.endswith("\n")
    label = 'model="lanes",backend="onnxruntime-cpu"'
    odd = 'model="odd \\"name\\"\\n\\\\",backend="onnxruntime-cpu"'
    at = lines.index("# TYPE edgebig_calls_total counter")
    assert lines[at - 1] == "# HELP edgebig_calls_total Runs that gave a result."
    assert lines[at + 1 : at + 3] == [f"edgebig_calls_total{{{label}}} 3", f"edgebig_calls_total{{{odd}}} 0"]
    assert f"edgebig_errors_total{{{label}}} 1" in lines and f"edgebig_drops_total{{{label}}} 0" in lines
    assert f'edgebig_latency_seconds{{{label},quantile="0.99"}} {stats.p99!r}' in lines
    assert not any("device_memory" in line for line in lines)
    assert sum(line.startswith("edgebig_latency_seconds") for line in lines) == 3
    assert prometheus_text({}) == ""


class Tracer:
    """As much of OpenTelemetry's tracer as is used, by its documented signature."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    @contextmanager
    def start_as_current_span(self, name: str, *, attributes: dict[str, Any]) -> Any:
        self.spans.append((name, attributes))
        yield


def test_every_run_is_a_span(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    tracer = Tracer()
    with load(tmp_path / "b", threads=1, trace=opentelemetry_spans(tracer)) as session:
        session.run(X)
        session.run_async(X).result(10)
    assert tracer.spans == [("edgebig.run", {"edgebig.backend": "onnxruntime-cpu"})] * 2


def test_openings_and_reloads_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with caplog.at_level("INFO", logger="edgebig"), load(tmp_path / "b", threads=1) as session:
        session.reload(tmp_path / "b")
    assert [record.getMessage() for record in caplog.records if record.name == "edgebig.runtime"] == [
        f"{tmp_path / 'b'}: opened on onnxruntime-cpu with graphs/model.onnx",
        f"{tmp_path / 'b'}: opened on onnxruntime-cpu with graphs/model.onnx",
        f"{tmp_path / 'b'}: reloaded on onnxruntime-cpu, 0 golden outputs compared",
    ]


def test_spans_without_opentelemetry_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(BackendError, match="spans need OpenTelemetry: pip install opentelemetry-api"):
        opentelemetry_spans()
