"""Machines, bundles and a stand-in for the GPU, for the tests of edgebig/device.

TensorRT-RTX builds the engines for real, without a GPU. What needs one is replaced at two seams: the machine's facts,
and the session that runs the golden inputs, for which ONNX Runtime runs the bundle's graph.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tiny

from edgebig.bundle import Bundle, Engine, manifest_text
from edgebig.compatibility import Machine
from edgebig.device.facts import Facts, installed_versions
from edgebig.runtime import Session, load

L4 = Machine(
    tensorrt_rtx=installed_versions()[1],
    capability="8.9",
    device="NVIDIA L4",
    driver="580.65.06",
    memory_bytes=23 << 30,
    platform="linux-x86_64",
    dla_cores=0,
)
FACTS = Facts(L4, cuda="13.0")


def l4_bundle(out: Path, **part: Any) -> Bundle:
    """The MLP for an L4, without an engine, with its golden inputs and profiles."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 8)).astype(np.float32)
    weights = {t.name: np.frombuffer(t.raw_data, np.float32).reshape(t.dims) for t in tiny.mlp().graph.initializer}
    y = np.maximum(x @ weights["a"] + weights["b"], 0) @ weights["c"] + weights["d"]
    bundle = tiny.write_bundle(
        out, {"model": tiny.mlp()}, target=tiny.L4_TARGET, golden={"in.x.0": x, "out.y.0": y.astype(np.float32)}
    )
    profiles = {"x": {"min": [1, 8], "opt": [4, 8], "max": [16, 8]}}
    chosen = replace(bundle.part(), profiles=profiles, **part)
    manifest = replace(bundle.manifest, parts={"model": chosen})
    (out / "manifest.json").write_text(manifest_text(manifest))
    return Bundle.open(out)


def on_the_cpu(bundle: Bundle, part: str, engine: Engine) -> Session:
    """The portable graph in ONNX Runtime, once the engine's own hash was checked."""
    assert bundle.file(engine.path).stat().st_size > 1000
    return load(bundle, part=part, require="onnxruntime-cpu")


def wrong(bundle: Bundle, part: str, engine: Engine) -> Session:
    """Another model's answers."""
    session = load(bundle, part=part, require="onnxruntime-cpu")
    right = session.run
    session.run = lambda inputs, outputs=None: {n: a + 1 for n, a in right(inputs, outputs).items()}  # type: ignore[method-assign]
    return session
