"""Engines of TensorRT-RTX for one capability, as tests of other stages ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgebig.build import Profile, build_engine, find_flavour


def rtx_engine(graph: Path, capability: str, profiles: Mapping[str, Profile] | None = None) -> bytes:
    """The engine that TensorRT-RTX builds of a graph."""
    sets = [profiles] if profiles else []
    return build_engine(graph, find_flavour("tensorrt-rtx"), profiles=sets, capabilities=[capability]).engine
