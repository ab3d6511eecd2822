"""How long each layer of an engine takes."""

from __future__ import annotations

from typing import Any


def layer_profiler(tensorrt: Any) -> Any:
    """An ``IProfiler`` with the times of a run in ``times``: pairs of a layer's name and milliseconds.

    TensorRT calls it from within ``execute_async_v3``, which waits for the run then. It times no CUDA graph.
    """

    class Profiler(tensorrt.IProfiler):  # type: ignore[misc]  # the class is known at run time
        def __init__(self) -> None:
            tensorrt.IProfiler.__init__(self)
            self.times: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.append((layer_name, float(ms)))

    return Profiler()
