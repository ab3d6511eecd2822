"""Tiny real ONNX models, and bundles of them, for tests of every folder."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgebig.bundle import Bundle, BundleWriter, Engine, Manifest, Part
from edgebig.spec import Dim, TensorSpec

OPSET, IR_VERSION = 19, 9
CPU_TARGET: dict[str, Any] = {"name": "cpu", "engine": "host", "compute_capability": None}
L4_TARGET: dict[str, Any] = {"name": "l4", "engine": "ahead", "compute_capability": "8.9"}

Value = tuple[str, Sequence[Dim]]


def add_one() -> onnx.ModelProto:
    """``y = x + 1``: ``x`` and ``y`` are float32, batch x 3."""
    one = numpy_helper.from_array(np.ones(3, np.float32), "one")
    return _model([helper.make_node("Add", ["x", "one"], ["y"])], [("x", ["batch", 3])], [("y", ["batch", 3])], [one])


def mlp(seed: int = 0) -> onnx.ModelProto:
    """``y = relu(x a + b) c + d``: ``x`` is float32 batch x 8, 16 hidden units, ``y`` batch x 4."""
    rng = np.random.default_rng(seed)
    shapes = {"a": (8, 16), "b": (16,), "c": (16, 4), "d": (4,)}
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "c", "d"], ["y"]),
    ]
    return _model(nodes, [("x", ["batch", 8])], [("y", ["batch", 4])], weights)


def two_inputs() -> onnx.ModelProto:
    """``sum = left + right`` and ``product = left * right``: all float32, batch x 2."""
    nodes = [
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Mul", ["left", "right"], ["product"]),
    ]
    shape: list[Dim] = ["batch", 2]
    return _model(nodes, [("left", shape), ("right", shape)], [("sum", shape), ("product", shape)], [])


def specs(values: Sequence[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """The specs of a graph's inputs or outputs."""
    found = []
    for value in values:
        tensor = value.type.tensor_type
        dims: list[Dim] = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
        dtype = TensorProto.DataType.Name(tensor.elem_type).lower()
        dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
        found.append(TensorSpec(value.name, dtype, tuple(dims)))
    return tuple(found)


def write_bundle(
    out: Path,
    models: Mapping[str, onnx.ModelProto],
    *,
    target: Mapping[str, Any] = CPU_TARGET,
    quantized: bool = False,
    engines: Sequence[tuple[str, str, str]] = (),
    original: onnx.ModelProto | None = None,
    golden: Mapping[str, Any] | None = None,
    external: bool = False,
) -> Bundle:
    """A bundle with one part for each model.

    Args:
        out: where to write it.
        models: the portable graph of each part.
        target: the manifest's target.
        quantized: what the manifest says of the graphs.
        engines: (kind, version, hardware) of engines to put in; each holds the portable graph's bytes.
        original: the graph to keep as the original of every part.
        golden: the arrays of every part's golden file.
        external: whether weights go to a file beside the graph.
    """
    with BundleWriter(out) as writer:
        parts = {}
        for name, model in models.items():
            graph = f"graphs/{name}.onnx"
            copy = onnx.ModelProto.FromString(model.SerializeToString())
            onnx.save(
                copy,
                writer.path(graph),
                save_as_external_data=external,
                location=f"{name}.onnx.data",
                size_threshold=0,
            )
            built = []
            for number, (kind, version, hardware) in enumerate(engines):
                path = f"engines/{name}.{number}.engine"
                writer.path(path).write_bytes(model.SerializeToString())
                built.append(Engine(path, kind, version, (hardware,)))
            if original is not None:
                onnx.save(original, writer.path(f"graphs/{name}.original.onnx"))
            if golden is not None:
                np.savez(writer.path(f"evidence/{name}.npz"), **dict(golden))
            parts[name] = Part(
                inputs=specs(model.graph.input),
                outputs=specs(model.graph.output),
                graph=graph,
                opset=OPSET,
                quantized=quantized,
                engines=tuple(built),
                original=f"graphs/{name}.original.onnx" if original is not None else None,
                golden=f"evidence/{name}.npz" if golden is not None else None,
            )
        return writer.commit(manifest(parts, target))


def manifest(parts: Mapping[str, Part], target: Mapping[str, Any] = CPU_TARGET) -> Manifest:
    """A manifest with those parts, before its files are known."""
    return Manifest(
        name="tiny",
        precision="fp32",
        target=dict(target),
        recipe={},
        source={"kind": "onnx", "name": "tiny.onnx"},
        parts=dict(parts),
        stages=(),
        versions={"onnx": onnx.__version__},
        created="2025-01-01T00:00:00+00:00",
    )


def this_machine() -> str:
    """The processor's architecture, as engines name it."""
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    def info(values: Sequence[Value]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in values]

    graph = helper.make_graph(list(nodes), "tiny", info(inputs), info(outputs), list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model
