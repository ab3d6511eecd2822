"""Reads an ONNX file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from edgebig.errors import SourceError
from edgebig.graph import Executor, Graph
from edgebig.source.merged import SWITCH, split_merged
from edgebig.source.source import Source, SourcePart


def read_onnx(path: Path, frozen: Mapping[str, int | float | bool] | None = None) -> Source:
    """The model in an ``.onnx`` file, external data included; two parts where Optimum merged a decoder.

    Args:
        path: the file.
        frozen: inputs that become constants: of a merged decoder, whose switch is among them, one part is left.

    Raises:
        SourceError: no such file, not an ONNX model, one that ONNX Runtime refuses or that takes text.
    """
    graph = Graph.load(path)
    text = next((spec.name for spec in graph.inputs if spec.dtype == "string"), None)
    if text is not None:
        raise SourceError(
            f"{path}: the input {text!r} holds text, and what is compiled computes with numbers: export the model "
            "without its tokenizer"
        )
    try:
        Executor(path, "off").close()
    except Exception as error:
        raise SourceError(f"{path}: {error}: export the model anew") from error
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    notes = [f"opset {graph.opset}"]
    switch = (frozen or {}).get(SWITCH)
    parts = tuple(p for p in split_merged(graph, path) if switch is None or p.given[SWITCH].item() == bool(switch))
    if parts:
        names = " and ".join(part.name for part in parts)
        notes.append(f"a merged decoder, of which {names} is made; --freeze {SWITCH}=0 or 1 chooses one")
    whole = (SourcePart("model", graph, path),)
    return Source("onnx", path.stem, parts or whole, sha256=digest.hexdigest(), notes=tuple(notes))
