"""Exports a ``torch.nn.Module``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebig.errors import MissingExtra, SourceError
from edgebig.graph import Graph
from edgebig.source.source import Sample, Source, SourcePart, check_export


def export_module(
    module: Any, examples: Mapping[str, Any] | Sequence[Any], folder: Path, opset: int, tolerance: float, dynamic: bool
) -> Source:
    """Exports a module with ``torch.onnx.export`` and compares it on the examples.

    Args:
        module: a ``torch.nn.Module``; it is put into evaluation mode.
        examples: one input for each parameter of ``forward``: a mapping by parameter name, or a sequence.
        folder: where the ONNX file is written.
        opset: the opset to export, 18 at least.
        tolerance: largest difference, relative to an output's largest magnitude.
        dynamic: whether the first axis of every input is dynamic.

    Raises:
        SourceError: the exporter failed.
        ExportMismatch: the graph computes something else.
        MissingExtra: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("export", "torch") from error
    if not isinstance(module, torch.nn.Module):
        raise SourceError(f"a model is a path, a hub name or a torch.nn.Module, found {type(module).__name__}")
    named = {k: torch.as_tensor(v).detach() for k, v in examples.items()} if isinstance(examples, Mapping) else {}
    args = () if named else tuple(torch.as_tensor(v).detach() for v in examples)
    was_training = module.training
    module.eval()
    name = type(module).__name__
    path = folder / "model.onnx"

    def axes(tensor: Any) -> Any:
        # AUTO: an axis that the module's own code fixes stays fixed
        return {0: torch.export.Dim.AUTO} if dynamic and tensor.ndim else None

    shapes: Any = {k: axes(v) for k, v in named.items()} if named else tuple(axes(v) for v in args)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = module(*args, **named)
            torch.onnx.export(
                module,
                args,
                str(path),
                kwargs=named or None,
                input_names=list(named) or None,
                output_names=_names(expected),
                opset_version=max(opset, 18),
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
                external_data=False,
            )
    except Exception as error:  # torch's exporter raises many kinds
        first = str(error).strip().splitlines()
        raise SourceError(
            f"torch.onnx.export failed on {name}: {first[0] if first else type(error).__name__}"
        ) from error
    finally:
        module.train(was_training)
    graph = Graph.load(path)
    inputs = [spec.name for spec in graph.inputs]
    values = list(named.values()) or list(args)
    sample: Sample = {k: v.numpy() for k, v in zip(inputs, values, strict=True)}
    outputs = [o.numpy() for o in _flatten(expected)]
    reference = {spec.name: o for spec, o in zip(graph.outputs, outputs, strict=True)}
    note = check_export(name, path, sample, reference, tolerance)
    return Source("torch", name, (SourcePart("model", graph, path, (sample,)),), notes=(note,))


def _names(outputs: Any) -> list[str] | None:
    """The outputs' names, where a mapping of tensors gives them."""
    if isinstance(outputs, Mapping) and all(hasattr(value, "numpy") for value in outputs.values()):
        return [str(key) for key in outputs]
    return None


def _flatten(outputs: Any) -> list[Any]:
    """The tensors of nested tuples, lists and mappings, in order."""
    if isinstance(outputs, Mapping):
        return [t for value in outputs.values() for t in _flatten(value)]
    if isinstance(outputs, list | tuple):
        return [t for value in outputs for t in _flatten(value)]
    return [outputs] if hasattr(outputs, "numpy") else []
