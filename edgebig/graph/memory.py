"""Keeps weights in a file rather than in memory, and gives memory back that nobody uses."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

LARGE = 1 << 24
"""Bytes of weights from which they go to a file."""

_SMALL = 1 << 10
_MMAP_THRESHOLD = -3
"""glibc's M_MMAP_THRESHOLD: blocks of more bytes are mapped, and unmapped when they are freed."""

_LOADING, _USUAL = 1 << 17, 1 << 25
"""glibc's first threshold, and the largest that it raises it to by itself."""


def own_tensors(nodes: Iterable[ir.Node], graphs: Iterable[ir.Graph]) -> None:
    """Replaces tensors that still lie in a protobuf message by arrays.

    Protobuf copies a tensor's bytes at each look, and frees a message's memory only as a whole: one tensor that
    stays in it would keep that of all.
    """
    for graph in graphs:
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _owned(value.const_value)
    for node in nodes:
        for name, attribute in list(node.attributes.items()):
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, _owned(attribute.value))
            elif attribute.type == ir.AttributeType.TENSORS:
                node.attributes[name] = ir.AttrTensors(name, [_owned(t) for t in attribute.value])


def move_to_file(graph: ir.Graph) -> None:
    """Moves a graph's large weights to a temporary file, which is mapped where they are read.

    The process then holds no copy of its own. The file lives as long as one of its tensors. Nothing changes where it
    cannot be written.
    """
    values = [v for v in graph.initializers.values() if is_large(v.const_value)]
    tensors = [v.const_value for v in values if v.const_value is not None]
    if sum(tensor.nbytes for tensor in tensors) < LARGE or all(isinstance(t, ir.ExternalTensor) for t in tensors):
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="edgebig-")
        moved = write_weights(tensors, Path(folder.name, "weights"))
    except OSError:
        return
    for value, tensor in zip(values, moved, strict=True):
        tensor.meta["folder"] = folder
        value.const_value = tensor


def load(values: Iterable[ir.Value]) -> None:
    """Brings initializers that lie in files into memory."""
    for value in values:
        if isinstance(value.const_value, ir.ExternalTensor):
            tensor = value.const_value
            value.const_value = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=tensor.name)


def write_to(tensor: ir.TensorProtocol, stream: Any) -> None:
    """Writes a tensor's bytes to whatever has a ``write``, in pieces where it lies in a file.

    Raises:
        OSError: they cannot be written.
    """
    if isinstance(tensor, ir.Tensor | ir.ExternalTensor):
        try:
            tensor.tofile(stream)
        except OSError as error:
            if error.errno is not None:
                raise
            # NumPy tells how much was written, but not why it ended there: for files it is the disk
            raise OSError(
                errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({error})", getattr(stream, "name", None)
            ) from error
    else:
        stream.write(tensor.tobytes())


def write_weights(tensors: Iterable[ir.TensorProtocol], path: Path) -> list[ir.ExternalTensor]:
    """Writes tensors one after the other; returns them as they lie in the file.

    Raises:
        OSError: the file cannot be written.
    """
    written, offset = [], 0
    with path.open("wb") as stream:
        for tensor in tensors:
            stream.seek(offset)
            write_to(tensor, stream)
            shape = ir.Shape(tensor.shape.numpy())
            written.append(
                ir.ExternalTensor(path, offset, tensor.nbytes, tensor.dtype, shape=shape, name=str(tensor.name))
            )
            # whole pages are mapped
            offset += -(-tensor.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    return written


def is_large(tensor: ir.TensorProtocol | None) -> bool:
    """Whether a weight may leave the model: shape inference reads small ones only there."""
    return tensor is not None and tensor.nbytes >= _SMALL and tensor.dtype != ir.DataType.STRING


def _owned(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.serde.TensorProtoTensor) or tensor.dtype == ir.DataType.STRING:
        return tensor
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name, doc_string=tensor.doc_string or None)


@contextmanager
def frugal() -> Iterator[None]:
    """Loads a model inside: what is freed meanwhile goes back to the system at once, where the C library can do so.

    ONNX Runtime frees more than the model's size while it loads it, which would else stay with the process.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LOADING)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _USUAL)
        library.malloc_trim(0)
