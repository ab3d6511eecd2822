"""How long the layers of a built graph take on this processor."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

from edgebig.errors import GraphError
from edgebig.graph import Graph

Sample = Mapping[str, np.ndarray[Any, Any]]
OTHER = ""
"""Stands for what belongs to no layer: changes of memory layout, and operators that ONNX Runtime made of many."""

_RUNS = 8
_KERNEL = "_kernel_time"
_OF_RUNTIME = re.compile(r"_token_\d+$|_nchwc$")
_PRODUCT = re.compile("Conv|MatMul|Gemm")
_TWO_INPUTS = {"Add", "Mul", "Clip"}
_SUFFIXES = re.compile(r"/(quantized|quantize|dequantized|dequantize|float16|computed)(/.*)?$|_q$|_dq$")


def layer_times(file: Path, reference: Graph, samples: Sequence[Sample]) -> dict[str, float]:
    """Seconds of one run by the reference's node, as ONNX Runtime's profiler counts them; the median of eight runs.

    A fused operator counts for the node whose name it kept or whose output it writes; what names neither
    counts for :data:`OTHER`.

    Args:
        file: the built graph.
        reference: the graph that it was made from, whose nodes are named.
        samples: inputs, taken in turn.

    Raises:
        GraphError: ONNX Runtime refuses the file or the samples.
    """
    owners = _Owners(reference, Graph.load(file))
    times: dict[str, float] = {}
    for (name, op), durations in _profile(file, samples).items():
        owner = owners.of(name)
        owner = owners.product_before(owner) if _PRODUCT.search(op) else owner
        times[owner] = times.get(owner, 0.0) + median(durations[1:] or durations) / 1e6
    return times


def _profile(file: Path, samples: Sequence[Sample]) -> dict[tuple[str, str], list[int]]:
    """Microseconds of every run of every kernel, by the kernel's node and operator."""
    found: dict[tuple[str, str], list[int]] = {}
    with tempfile.TemporaryDirectory(prefix="edgebig-") as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 4
        try:
            session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            takes = {i.name for i in session.get_inputs()}
            for index in range(_RUNS + 1):
                feeds = samples[index % len(samples)]
                session.run(None, {k: v for k, v in feeds.items() if k in takes})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise GraphError(f"ONNX Runtime cannot measure {file.name}: {error}") from error
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            key = event["name"].removesuffix(_KERNEL), event["args"]["op_name"]
            found.setdefault(key, []).append(event["dur"])
    return found


class _Owners:
    """The reference's node that a node of the built graph stands for."""

    def __init__(self, reference: Graph, built: Graph) -> None:
        self._nodes = {str(node.name): node for node in reference.model.graph}
        self._writers = {str(v.name): str(n.name) for n in reference.model.graph for v in n.outputs}
        self._outputs = {str(n.name): [str(v.name) for v in n.outputs if v.name] for n in built.model.graph}

    def product_before(self, name: str) -> str:
        """The product or convolution that was fused with a node, which the fused operator is named after."""
        node = self._nodes.get(name)
        while node is not None and not _PRODUCT.search(node.op_type):
            before = [v.producer() for v in node.inputs if v is not None]
            node = before[0] if len(before) == 1 or node.op_type in _TWO_INPUTS else None
        return str(node.name) if node is not None else name

    def of(self, name: str) -> str:
        plain = _OF_RUNTIME.sub("", name)
        for candidate in (name, plain):
            if candidate in self._nodes:
                return candidate
        written = [*self._outputs.get(name, []), *self._outputs.get(plain, [])]
        for tensor in [*written, name, plain]:
            for candidate in (tensor, _SUFFIXES.sub("", tensor)):
                if candidate in self._writers:
                    return self._writers[candidate]
        return next((n for n in self._nodes if n and f"/{n}/" in f"/{name}/"), OTHER)
