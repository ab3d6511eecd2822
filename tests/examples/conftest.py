"""Bundles that the examples run, compiled once a module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_models import EXAMPLES, halves, reddest

import edgebig

Compile = Callable[..., Path]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles a model for this CPU in FP32, once for each name."""
    folder = tmp_path_factory.mktemp("bundles")

    def make(name: str, model: Path, **options: Any) -> Path:
        out = folder / f"{name}.bundle"
        if not out.exists():
            edgebig.compile(str(model), target="cpu", precision="fp32", out=out, **options)
        return out

    return make


@pytest.fixture(scope="module")
def tiny_classifier(bundle: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of :func:`reddest`, with a recipe of its own."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = folder / "reddest.yaml"
    recipe.write_text("preprocess: {resize: [8, 8], scale: 0.00784313725490196}\nshapes: {pixels: 1x3x8x8}\n")
    return bundle("reddest", reddest(folder / "reddest.onnx"), recipe=str(recipe))


@pytest.fixture(scope="module")
def tiny_maps(bundle: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of :func:`halves`, with a recipe of its own."""
    folder = tmp_path_factory.mktemp("maps")
    recipe = folder / "halves.yaml"
    recipe.write_text("preprocess: {resize: [16, 16], resample: nearest, scale: 0.00784313725490196, mean: [1.0]}\n")
    return bundle("halves", halves(folder / "halves.onnx"), recipe=str(recipe))


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test import the scripts."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
