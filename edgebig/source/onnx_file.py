"""Reads an ONNX file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgebig.errors import SourceError
from edgebig.graph import Executor, Graph
from edgebig.source.source import Source, SourcePart


def read_onnx(path: Path) -> Source:
    """The model in an ``.onnx`` file, external data included.

    Raises:
        SourceError: no such file, not an ONNX model, or one that ONNX Runtime refuses.
    """
    graph = Graph.load(path)
    try:
        Executor(path, "off").close()
    except Exception as error:
        raise SourceError(f"{path}: {error}: export the model anew") from error
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    part = SourcePart("model", graph, path)
    return Source("onnx", path.stem, (part,), sha256=digest.hexdigest(), notes=(f"opset {graph.opset}",))
