"""Loads what ``edgebig debug`` compares: two graphs, and inputs for both."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.bundle import Bundle
from edgebig.errors import BundleError, InputError, SourceError, UsageError
from edgebig.graph import Graph
from edgebig.runtime import golden
from edgebig.runtime.checks import InputCheck
from edgebig.runtime.choose import checked_graph
from edgebig.verify import expose_quantized, made_inputs, with_float_inputs

Sample = dict[str, np.ndarray[Any, Any]]
_MADE = 4


@dataclass(frozen=True)
class Pair:
    """What is compared.

    Attributes:
        name: of what is looked at.
        reference: what is right.
        graph: what is looked at; tensors that it has only quantized are floats in it too.
        samples: inputs for both.
        origin: where those come from.
        against: what the reference is.
    """

    name: str
    reference: Graph
    graph: Graph
    samples: list[Sample]
    origin: str
    against: str


def load_pair(model: str, against: str | None, inputs: str | None, part: str | None) -> Pair:
    """Both graphs and the inputs.

    Raises:
        SourceError, BundleError: a model or bundle cannot be read.
        BundleError: the bundle keeps no original or no inputs, and none were given.
        InputError: the inputs do not fit.
        UsageError: the two graphs take different inputs, or nothing was given to compare with.
    """
    place = Path(model)
    if place.is_dir():
        bundle = Bundle.open(place)
        kept = bundle.part(part)
        graph = Graph.load(checked_graph(bundle, kept.graph))
        if against is not None:
            reference = Graph.load(Path(against))
        elif kept.original is not None:
            reference = Graph.load(checked_graph(bundle, kept.original))
        else:
            raise BundleError(
                f"{model} keeps no original to compare with: compile the model with --keep-original, "
                "or give --against ORIGINAL.onnx"
            )
        samples = [given for given, _ in golden(bundle, part)] if inputs is None else []
        if inputs is None and not samples:
            raise BundleError(f"{model} keeps no inputs: give --inputs FILE.npz, or compile without --no-golden")
        origin, name = f"{len(samples)} golden inputs", part or next(iter(bundle.manifest.parts))
    else:
        if part is not None:
            raise UsageError(f"--part {part}: {model} is no bundle, only those have parts")
        if not place.exists():
            raise SourceError(f"no such file or folder: {model}: give a bundle or an .onnx file")
        if against is None:
            raise UsageError(f"{model}: give --against ORIGINAL.onnx, the model as it was before")
        graph, reference, name = Graph.load(place), Graph.load(Path(against)), place.stem
        samples, origin = [], ""
    graph, reference = with_float_inputs(graph), with_float_inputs(reference)
    _check_inputs(reference, graph, model)
    if inputs is not None:
        samples = read_inputs(Path(inputs), reference)
        origin = f"{len(samples)} inputs of {inputs}"
    elif not samples:
        samples, origin = made_inputs(reference, {}, _MADE), f"{_MADE} made inputs (give --inputs for real ones)"
    names = [str(v.name) for node in reference.model.graph for v in node.outputs if v.name]
    shown = against or "the original that the bundle keeps"
    return Pair(name, reference, expose_quantized(graph, names), samples, origin, shown)


def read_inputs(file: Path, graph: Graph) -> list[Sample]:
    """Samples of an ``.npz``: arrays named like the inputs, or ``in.NAME.I`` as in a bundle's evidence.

    Raises:
        InputError: no such file, not one of arrays, or they do not fit the graph.
    """
    takes = [spec.name for spec in graph.inputs]
    samples: list[Sample] = []
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if set(takes) <= set(arrays.files):
                samples = [{name: arrays[name] for name in takes}]
            while all(f"in.{name}.{len(samples)}" in arrays.files for name in takes):
                samples.append({name: arrays[f"in.{name}.{len(samples)}"] for name in takes})
            found = ", ".join(arrays.files)
    except FileNotFoundError as error:
        raise InputError(f"no such file: {file}") from error
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} holds no arrays: {error}: write it with numpy.savez") from error
    if not samples:
        raise InputError(f"{file} should hold the arrays {', '.join(takes)}, found {found or 'none'}")
    check = InputCheck(graph.inputs)
    return [check(sample) for sample in samples]


def _check_inputs(reference: Graph, graph: Graph, model: str) -> None:
    """Both must take the same."""
    wanted = {spec.name: spec.dtype for spec in reference.inputs}
    found = {spec.name: spec.dtype for spec in graph.inputs}
    if wanted != found:
        raise UsageError(
            f"{model} and its original take different inputs: {_listed(found)}, the original {_listed(wanted)}"
        )


def _listed(takes: dict[str, str]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in takes.items())
