"""Small bundles for tests of what is written and read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgebig.bundle import Bundle, BundleWriter, Manifest, Part, Stage
from edgebig.spec import TensorSpec

GRAPH = b"the graph" * 100


def a_part(**changes: Any) -> Part:
    spec = TensorSpec("x", "float32", ("batch", 3))
    return replace(Part(inputs=(spec,), outputs=(spec,), graph="graphs/model.onnx", opset=19), **changes)


def a_manifest(**changes: Any) -> Manifest:
    plain = Manifest(
        name="tiny",
        precision="fp32",
        target={"name": "cpu", "engine": "host"},
        recipe={},
        source={"kind": "onnx"},
        parts={"model": a_part()},
        stages=(Stage("source", 0.5, 1024, ("read it",), ("left it",)),),
        versions={"onnx": "1.0"},
        created="2025-01-01T00:00:00+00:00",
    )
    return replace(plain, **changes)


def write(out: Path, graph: bytes = GRAPH, *, force: bool = False) -> Bundle:
    with BundleWriter(out, force=force) as writer:
        writer.path("graphs/model.onnx").write_bytes(graph)
        return writer.commit(a_manifest())
