"""How long each layer of a bundle's graph takes on a backend."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgebig.bundle import Bundle
from edgebig.errors import BackendError
from edgebig.runtime.choose import Candidate, checked_graph, first_that_opens
from edgebig.runtime.onnxruntime_cpu import OnnxRuntimeCpu, import_onnxruntime
from edgebig.sessions import open_session

Array = np.ndarray[Any, Any]
LayerTimes = list[tuple[str, float]]
"""Pairs of a layer's name and milliseconds, in the order in which they run."""

_WARM_UP, _RUNS = 2, 5
_SUFFIX = "_kernel_time"


def layer_times(
    bundle: Bundle, candidates: Sequence[Candidate], feeds: Mapping[str, Array], threads: int | None = None
) -> LayerTimes | None:
    """The times of the first of the candidates that opens; ``None`` where its backend does not tell them.

    TensorRT tells them of one run, ONNX Runtime's CPU provider as the median of a few. Their sum is more than a run
    takes that nobody watches.

    Raises:
        BundleError: a file is damaged.
        MissingExtra, BackendError: none opens, or it fails.
    """
    backend, taken, _ = first_that_opens(bundle, candidates, prefer=None, threads=threads)
    try:
        profile = getattr(backend, "profile", None)
        if profile is not None:
            found: LayerTimes = profile(dict(feeds))
            return found
    finally:
        backend.close()
    if taken.backend != OnnxRuntimeCpu.name:
        return None
    return onnxruntime_layers(checked_graph(bundle, taken.file), feeds, optimize=taken.optimize, threads=threads)


def onnxruntime_layers(
    graph: Path, feeds: Mapping[str, Array], *, optimize: bool, threads: int | None = None
) -> LayerTimes:
    """The times of the nodes in ONNX Runtime's CPU provider, as its profile holds them.

    Args:
        graph: the ONNX file; the caller has checked its hash.
        feeds: an array for each input.
        optimize: as for :class:`OnnxRuntimeCpu`; fused nodes count as one.
        threads: threads within one operator.

    Raises:
        MissingExtra: onnxruntime is not installed.
        BackendError: it refuses the graph or the inputs, or wrote no profile.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="edgebig-profile-") as folder:
        options.profile_file_prefix = str(Path(folder) / "run")
        try:
            session = open_session(ort, str(graph), options, providers=["CPUExecutionProvider"])
            for _ in range(_WARM_UP + _RUNS):
                session.run(None, dict(feeds))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except Exception as error:  # its errors have no common base but this
            raise BackendError(f"ONNX Runtime {ort.__version__} makes no profile of {graph.name}: {error}") from error
    return _of_events(events)


def _of_events(events: Sequence[Mapping[str, Any]]) -> LayerTimes:
    """The median of each node over all runs but the first ones, from a trace whose times are in microseconds."""
    times: dict[str, list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_SUFFIX):
            operator = str(event.get("args", {}).get("op_name", ""))
            label = f"{name.removesuffix(_SUFFIX)} ({operator})".strip()
            times.setdefault(label, []).append(float(event["dur"]) / 1e3)
    kept = {label: each[len(each) * _WARM_UP // (_WARM_UP + _RUNS) :] for label, each in times.items()}
    return [(label, median(each) * len(each) / _RUNS) for label, each in kept.items()]
