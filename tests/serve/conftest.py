"""Bundles that are served."""

from __future__ import annotations

from pathlib import Path

import pytest
import served
import tiny


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers: float32 ``x`` batch x 8 to ``y`` batch x 4."""
    return tiny.write_bundle(tmp_path_factory.mktemp("mlp") / "b", {"model": tiny.mlp()}).path


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``y = x`` after a loop of ``n`` rounds of some hundred µs each."""
    return tiny.write_bundle(tmp_path_factory.mktemp("slow") / "b", {"model": served.slow_model()}).path
