"""Loads the model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebig.errors import SourceError, UsageError
from edgebig.request import Request
from edgebig.source import Source, export_huggingface, export_module, read_onnx
from edgebig.stages import StageNotes

Examples = Mapping[str, Any] | Sequence[Any]


def check_model_exists(model: Any) -> None:
    """Refuses a path that leads nowhere before any work is done.

    Raises:
        SourceError: no such file.
    """
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        is_path = path.suffix == ".onnx" or str(model).startswith((".", "/", "~"))
        if is_path and not path.exists():
            raise SourceError(f"no such file: {path}")
        if path.is_file() and path.suffix != ".onnx":
            raise SourceError(f"{path} is not an .onnx file: give one, a Hugging Face model folder or a hub name")


def load_source(model: Any, request: Request, examples: Examples | None, work: Path, notes: StageNotes) -> Source:
    """Exports or reads the model."""
    recipe = request.recipe
    if not isinstance(model, str | os.PathLike):
        if examples is None:
            raise UsageError("compile(module): give example_inputs, which the export traces")
        source = export_module(model, examples, work, recipe.opset, recipe.tolerance, dynamic=not recipe.shapes)
    elif str(model).endswith(".onnx"):
        if recipe.task is not None and request.recipe.name == "own":
            raise UsageError(f"--task {recipe.task}: {model} is an ONNX file, which has no task: leave --task out")
        source = read_onnx(Path(model), recipe.freeze)
    else:
        texts = [r for one in recipe.shape_sets for name, r in one.items() if name == "input_ids" and r.max]
        length = max((r.max[-1] for r in texts), default=None)
        pads = bool(texts) and all(r.min[-1] == length for r in texts)
        source = export_huggingface(
            os.fspath(model), work, recipe.task, recipe.opset, recipe.tolerance, length, pads=pads
        )
    notes.note(*source.notes)
    return source
