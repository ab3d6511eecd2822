"""Optimizes a graph for ONNX Runtime on a CPU, ahead of its first use."""

from __future__ import annotations

from pathlib import Path

from edgebig.errors import BuildError

_EXTERNAL_ABOVE = 1 << 24
"""Bytes from which weights go to a file beside the graph: ONNX Runtime maps that, where it would copy them out of the
message. MiniLM's 90 MB load in a third of the time and 64 MB less memory, which processes then share."""

SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""Fused, Add and LayerNormalization run on one thread: a sentence model took 15 % longer (ONNX Runtime 1.32)."""


def optimize_for_cpu(graph: Path, out: Path) -> str:
    """Writes the graph as ONNX Runtime fuses it, so that a device need not do it at every start.

    The level is EXTENDED: the layout optimizations beyond it depend on the exact processor, and the
    runtime adds them when it loads.

    Args:
        graph: an ONNX file.
        out: the file to write; large weights go to ``<out>.data`` beside it.

    Returns:
        ONNX Runtime's version; older ones may not know the fused operators.

    Raises:
        BuildError: ONNX Runtime refuses the graph.
    """
    # a Jetson that finishes a bundle imports this package, and has neither of them
    import onnxruntime as ort

    from edgebig.build.fuse_biases import fuse_biases

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 4
    size = sum(f.stat().st_size for f in graph.parent.iterdir() if f.name.startswith(graph.name))
    if size > _EXTERNAL_ABOVE:
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{out.name}.data")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_FUSIONS)
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise BuildError(f"ONNX Runtime refuses the graph {graph.stem}: {error}") from error
    fuse_biases(out)
    return str(ort.__version__)
