"""Checks the external data that a model file names before anything reads it, and reads it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from edgebig.errors import SourceError


def check_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Every external tensor must lie whole in a file inside the model's own folder.

    A location outside of it would let a downloaded model read any file of its user.

    Raises:
        SourceError: a file is missing, too short, or outside the folder.
    """
    folder = path.parent.resolve()
    for tensor in _external_tensors(model):
        _check(tensor, folder, path)


def read_external_data(model: onnx.ModelProto, path: Path, up_to: int) -> None:
    """Brings each external tensor of at most ``up_to`` bytes into the model; call after the check."""
    for tensor in _external_tensors(model):
        size = _size(tensor)
        if size > up_to:
            continue
        info = ExternalDataInfo(tensor)
        with (path.parent / info.location).open("rb") as stream:
            stream.seek(info.offset or 0)
            tensor.raw_data = stream.read(size)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT


def external_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all external tensors."""
    return sum(_size(tensor) for tensor in _external_tensors(model))


def _check(tensor: onnx.TensorProto, folder: Path, path: Path) -> None:
    location = next((e.value for e in tensor.external_data if e.key == "location"), "")
    what = f"{path}: the weight {tensor.name!r} lies in {location!r}"
    try:
        info, size = ExternalDataInfo(tensor), _size(tensor)
        data = (folder / location).resolve()
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise SourceError(f"{what}, which cannot be read ({error}): export or copy the model anew") from error
    if Path(location).is_absolute() or not data.is_relative_to(folder):
        raise SourceError(f"{what}, outside the model's folder: move the data beside the model and save it anew")
    if not data.is_file():
        raise SourceError(f"{what}, which is not there: copy it beside the model")
    if info.length is not None and info.length < size:
        raise SourceError(f"{what} with {info.length} bytes, but its shape needs {size}: export the model anew")
    end = (info.offset or 0) + (info.length or size)
    if data.stat().st_size < end:
        raise SourceError(f"{what} up to byte {end}, but the file ends at {data.stat().st_size}: copy it anew")


def _size(tensor: onnx.TensorProto) -> int:
    """Bytes that the tensor's shape and type need."""
    return math.ceil(math.prod(tensor.dims) * ir.DataType(tensor.data_type).itemsize)


def _external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    found = list(_tensors(model.graph))
    for function in model.functions:
        found += _in_nodes(function.node)
    return (tensor for tensor in found if uses_external_data(tensor))


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)
            for subgraph in [attribute.g, *attribute.graphs]:
                yield from _tensors(subgraph)
