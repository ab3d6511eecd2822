"""One attempt of the matrix, in a process of its own: a crash of the builder ends this process alone.

python benchmarks/build/matrix_cell.py MODEL SIDE PRECISION CAPABILITIES WORK RESULT.json
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.build import matrix_models

TARGETS = {"8.0": "a100", "8.6": "a10", "8.9": "l4", "12.0": "rtx-pro-6000"}
_CARELESS = (1, 8, 16)


def main(name: str, side: str, precision: str, capabilities: str, work: str, result: str) -> None:
    """Tries, and writes what came of it."""
    model = next(m for m in matrix_models.MODELS if m.name == name)
    wanted, folder = capabilities.split(","), Path(work)
    try:
        if side == "edgebig":
            found = compile_with(model, precision, wanted, folder)
        else:
            for graph in matrix_models.graphs(model, folder):
                build_bare(graph, wanted)
            found = {}
        answer = {"ok": True, "reason": "", **found}
    except Exception as error:  # whatever the reason is, it is the cell's answer
        answer = {"ok": False, "reason": " ".join(f"{type(error).__name__}: {error}".split())[:600]}
    Path(result).write_text(json.dumps(answer), encoding="utf-8")


def compile_with(model: matrix_models.Model, precision: str, capabilities: list[str], work: Path) -> dict[str, Any]:
    """Compiles with edgebig; every part must have its engine, for all of the capabilities."""
    import edgebig

    os.environ["EDGEBIG_CACHE"] = str(work / "cache")
    asked = matrix_models.options(model, precision, work)
    with tempfile.TemporaryDirectory(prefix="edgebig-matrix-") as folder:
        out = Path(folder) / "b"
        bundle = edgebig.compile(
            matrix_models.source(model, work),
            out=out,
            target=TARGETS[capabilities[-1]],
            capabilities=capabilities,
            **asked,
        )
        bundle.verify()
        cosines = {}
        for name, part in bundle.manifest.parts.items():
            built = {c for e in part.engines if (out / e.path).stat().st_size > 1000 for c in e.hardware}
            if lacking := set(capabilities) - built:
                raise RuntimeError(f"{name} has no engine for {', '.join(sorted(lacking))}")
            cosines[name] = min((s["cosine"] for s in part.similarity.values()), default=None)
        said = [line for stage in bundle.manifest.stages for line in stage.declined]
        narrow = [line for line in said if "the engine takes the shapes" in line]
        return {"cosines": cosines, "narrow": narrow}


def build_bare(graph: Path, capabilities: Sequence[str]) -> None:
    """TensorRT-RTX's parser and builder on the file as it is, every dynamic axis 1 to 16."""
    import tensorrt_rtx_bindings as trt

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(text)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        first = parser.get_error(0) if parser.num_errors else "no reason given"
        raise RuntimeError(f"{graph.name}: the parser: {first}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), index)
    profile, is_dynamic = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 in shape:
            is_dynamic = True
            profile.set_shape(tensor.name, *(tuple(size if d == -1 else d for d in shape) for size in _CARELESS))
    if is_dynamic:
        config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        raise RuntimeError(f"{graph.name}: the builder: {log.errors[0] if log.errors else 'no reason given'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
