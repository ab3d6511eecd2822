"""Weights of an engine that does not simply hold them: those that come from the graph, and those that stream."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Weights:
    """What is to be done about an engine's weights once it is deserialized.

    Attributes:
        graph: the ONNX graph that gives them to an engine that was built without; its hash is checked. ``None`` for
            an engine that holds them.
        streaming: bytes of streaming weights that stay on the GPU, or ``auto``; ``None`` where none stream.
    """

    graph: Path | None = None
    streaming: int | str | None = None


def prepare_weights(trt: Any, logger: Any, engine: Any, weights: Weights) -> str:
    """Makes a deserialized engine ready for its first context.

    Args:
        trt: the module that deserialized it.
        logger: a TensorRT logger.
        engine: an ``ICudaEngine`` that has no context yet: TensorRT takes a budget for streaming only then.
        weights: what is to be done.

    Returns:
        Why that failed, in plain words; empty where it did not.
    """
    if weights.graph is not None:
        refitter = trt.Refitter(engine, logger)
        weights_parser = trt.OnnxParserRefitter(refitter, logger)
        if not weights_parser.refit_from_file(str(weights.graph)) or not refitter.refit_cuda_engine():
            missing = len(refitter.get_missing_weights())
            return f"it holds no weights and does not take those of {weights.graph.name} ({missing} are missing)"
    if weights.streaming is not None:
        most = engine.streamable_weights_size
        wanted = weights.streaming
        budget = engine.get_weight_streaming_automatic_budget() if isinstance(wanted, str) else min(wanted, most)
        engine.weight_streaming_budget_v2 = budget
        if engine.weight_streaming_budget_v2 != budget:
            return f"TensorRT does not take {budget} bytes as the budget of its streaming weights, of {most}"
    return ""
