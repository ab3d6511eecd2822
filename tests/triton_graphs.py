"""Bundles for tests of Triton's repositories: graphs of any shapes, golden inputs, and changes of a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from edgebig.bundle import Bundle, manifest_text


def golden(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray[Any, Any]]:
    """One pair, the outputs from ONNX Runtime."""
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, feeds)
    outputs = {o.name: array for o, array in zip(session.get_outputs(), found, strict=True)}
    return {f"in.{n}.0": a for n, a in feeds.items()} | {f"out.{n}.0": a for n, a in outputs.items()}


def refit(bundle: Bundle, **changes: Any) -> Bundle:
    """The same bundle with other fields of its only part, or of the manifest."""
    manifest = bundle.manifest
    part = {k: v for k, v in changes.items() if hasattr(bundle.part(), k)}
    parts = {name: replace(p, **part) for name, p in manifest.parts.items()}
    manifest = replace(manifest, parts=parts, **{k: v for k, v in changes.items() if k not in part})
    (bundle.path / "manifest.json").write_text(manifest_text(manifest))
    return Bundle.open(bundle.path)


def graph(inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, Sequence[Any]]) -> onnx.ModelProto:
    """Each output is the input of its place, shapes alone matter."""
    nodes = [helper.make_node("Identity", [i], [o]) for i, o in zip(inputs, outputs, strict=True)]

    def infos(values: Mapping[str, Sequence[Any]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in values.items()]

    made = helper.make_graph(nodes, "g", infos(inputs), infos(outputs))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
