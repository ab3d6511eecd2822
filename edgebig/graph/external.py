"""Checks the external data that a model file names before anything reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from edgebig.errors import SourceError


def check_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Every external tensor must lie whole in a file inside the model's own folder.

    A location outside of it would let a downloaded model read any file of its user.

    Raises:
        SourceError: a file is missing, too short, or outside the folder.
    """
    folder = path.parent.resolve()
    for tensor in _tensors(model.graph):
        if not uses_external_data(tensor):
            continue
        info = ExternalDataInfo(tensor)
        data = (folder / info.location).resolve()
        what = f"{path}: the weight {tensor.name!r} lies in {info.location!r}"
        if Path(info.location).is_absolute() or not data.is_relative_to(folder):
            raise SourceError(f"{what}, outside the model's folder: move the data beside the model and save it anew")
        if not data.is_file():
            raise SourceError(f"{what}, which is not there: copy it beside the model")
        end = (info.offset or 0) + (info.length or 0)
        if data.stat().st_size < end:
            raise SourceError(f"{what} up to byte {end}, but the file ends at {data.stat().st_size}: copy it anew")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in [attribute.g, *attribute.graphs]:
                yield from _tensors(subgraph)
