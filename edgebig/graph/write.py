"""Writes a model as one ``.onnx`` file without a second copy of its weights in memory.

Protobuf's own writer wants every weight inside a message first, then the message as one text of bytes: two copies, and
more time than the disk takes. The fields of a message may stand in any order (Protocol Buffers, "Encoding",
https://protobuf.dev/programming-guides/encoding/), so that the weights go last, each straight from where it lies.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from edgebig.graph.memory import is_large, load, write_to

_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER
_BYTES = 2
"""Protobuf's wire type of messages and bytes: their length, then they."""


def write_model(model: ir.Model, path: Path) -> None:
    """Writes the model with its weights inside; the model stays as it is.

    Args:
        model: of less than 2 GiB, which is where a protobuf ends.
        path: of the file, which is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    inner = [v for graph in model.graphs() if graph is not model.graph for v in graph.initializers.values()]
    if any(isinstance(value.const_value, ir.ExternalTensor) for value in inner):
        model = model.clone()  # its own weights stay where they are
        load([v for graph in model.graphs() if graph is not model.graph for v in graph.initializers.values()])
    with _set_aside(model.graph) as large:
        proto = ir.to_proto(model)
    weights = [(tensor, large.get(tensor.name)) for tensor in proto.graph.initializer]
    for tensor, values in weights:
        if values is not None:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    heads = [tensor.SerializeToString() for tensor, _ in weights]
    del proto.graph.initializer[:]
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    # what stands before each weight: its message's length and fields, and the length of its values
    starts, total = [], len(graph)
    for head, (_, values) in zip(heads, weights, strict=True):
        body = head if values is None else head + _prefix(_RAW_DATA, values.nbytes)
        size = len(body) + (0 if values is None else values.nbytes)
        starts.append(_prefix(_INITIALIZER, size) + body)
        total += len(starts[-1]) + (0 if values is None else values.nbytes)
    with path.open("wb") as stream:
        stream.write(proto.SerializeToString() + _prefix(_GRAPH, total) + graph)
        for start, (_, values) in zip(starts, weights, strict=True):
            stream.write(start)
            if values is not None:
                _write(values, stream)


@contextmanager
def _set_aside(graph: ir.Graph) -> Iterator[Mapping[str, ir.TensorProtocol]]:
    """The graph's large weights by name; inside, the graph holds only their names, types and shapes."""
    taken: dict[ir.Value, ir.TensorProtocol] = {}
    try:
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and (is_large(tensor) or isinstance(tensor, ir.ExternalTensor)):
                taken[value] = tensor
                value.const_value = ir.ExternalTensor(
                    "weights",
                    0,
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=str(value.name),
                    doc_string=tensor.doc_string,
                    metadata_props=dict(tensor.metadata_props),
                )
        yield {str(value.name): tensor for value, tensor in taken.items()}
    finally:
        for value, tensor in taken.items():
            value.const_value = tensor


def _write(values: ir.TensorProtocol, stream: BinaryIO) -> None:
    before = stream.tell()
    array = values.numpy() if isinstance(values, ir.Tensor) and sys.byteorder == "little" else None
    if array is not None and array.nbytes == values.nbytes and array.flags.c_contiguous:
        stream.write(array.reshape(-1).view(np.uint8).data)  # NumPy's tofile opens the file anew for each array
    else:
        write_to(values, stream)
    written = stream.tell() - before
    if written != values.nbytes:  # the lengths before it would lie, and the file be another model
        raise OSError(f"the weight {values.name} has {values.nbytes} bytes, {written} were written")


def _prefix(field: int, size: int) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(size)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
