"""edgebig: a trained model goes in, a verified bundle for a named device comes out.

    import edgebig

    edgebig.compile("./resnet50", target="l4", precision="fp16", out="resnet50.bundle")
    with edgebig.load("resnet50.bundle") as session:
        outputs = session.run({"pixel_values": batch})

Everything here is loaded on first use, so that a robot that only runs a bundle imports
NumPy and its engine, and nothing that compiles.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ONNX Runtime 1.32 writes a device id and sends events unless it is told not to before its first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edgebig import errors as errors
    from edgebig.bundle import Bundle as Bundle
    from edgebig.loading import load as load
    from edgebig.pipeline import compile as compile
    from edgebig.recipe import Recipe as Recipe
    from edgebig.runtime import Session as Session
    from edgebig.target import Target as Target

_WHERE = {
    "Bundle": "edgebig.bundle",
    "Recipe": "edgebig.recipe",
    "Session": "edgebig.runtime",
    "Target": "edgebig.target",
    "compile": "edgebig.pipeline",
    "load": "edgebig.loading",
}

__all__ = ["Bundle", "Recipe", "Session", "Target", "compile", "errors", "load"]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("edgebig.errors")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'edgebig' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
