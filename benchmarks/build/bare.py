"""TensorRT-RTX's parser and builder called bare: the peer of `run.py`, as a function and as a command.

    python benchmarks/build/bare.py GRAPH ENGINE CAPABILITIES PROFILE

PROFILE is JSON: for each dynamic input its smallest, best and largest shape. The command writes the engine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def build(graph: Path, capabilities: Sequence[str], profile: Mapping[str, Mapping[str, Sequence[int]]]) -> Any:
    """The serialized engine, with nothing done beside what TensorRT asks for."""
    import tensorrt_rtx_bindings as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise RuntimeError(f"the parser refuses {graph}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), index)
    if profile:
        shapes = builder.create_optimization_profile()
        for name, ends in profile.items():
            shapes.set_shape(name, ends["min"], ends["opt"], ends["max"])
        config.add_optimization_profile(shapes)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(f"the builder refuses {graph}")
    return engine


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(build(Path(sys.argv[1]), sys.argv[3].split(","), json.loads(sys.argv[4])))
