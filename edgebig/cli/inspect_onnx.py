"""What an ONNX file holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebig.cli.console import size_text, table
from edgebig.errors import SourceError

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgebig.graph import Graph

_FEW = 12


def facts(path: Path) -> dict[str, Any]:
    """Inputs, outputs, opset, operators, weights by dtype, and files, as plain data.

    Raises:
        SourceError: not an ONNX model, damaged, or its external data is missing or outside its folder.
    """
    if path.suffix != ".onnx":
        raise SourceError(f"{path} is not an .onnx file: give one, a Hugging Face folder or a bundle")
    from edgebig.graph import Graph

    graph = Graph.load(path)
    tensors = _tensors(graph)
    elements, sizes = _by_dtype(tensors)
    external = _external_files(path)
    operators = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in graph.nodes())
    return {
        "kind": "onnx",
        "path": str(path),
        "bytes": path.stat().st_size,
        "producer": " ".join(filter(None, (graph.model.producer_name, graph.model.producer_version))),
        "opset": graph.opset,
        "domains": dict(graph.model.opset_imports),
        "inputs": [spec.to_json() for spec in graph.inputs],
        "outputs": [spec.to_json() for spec in graph.outputs],
        "nodes": sum(operators.values()),
        "operators": dict(operators.most_common()),
        "parameters": sum(elements.values()),
        "weights": {name: {"elements": count, "bytes": sizes[name]} for name, count in elements.most_common()},
        "external_data": {name: (path.parent / name).stat().st_size for name in external},
    }


def lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    more = found["external_data"]
    external = "".join(f", and {name} {size_text(size)}" for name, size in more.items())
    made = f", made by {found['producer']}" if found["producer"] else ""
    out = [f"{found['path']}: ONNX, opset {found['opset']}, {size_text(found['bytes'])}{external}{made}"]
    out += ["", "inputs", *spec_lines(found["inputs"]), "outputs", *spec_lines(found["outputs"])]
    out += ["", f"parameters: {found['parameters']:,}"]
    weights = [[name, f"{w['elements']:,}", size_text(w["bytes"])] for name, w in found["weights"].items()]
    out += table(weights, right=[1, 2], indent=2)
    out += ["", f"operators: {found['nodes']:,} nodes of {len(found['operators'])} kinds"]
    operators = list(found["operators"].items())
    out += table([[name, f"{count:,}"] for name, count in operators[:_FEW]], right=[1], indent=2)
    if len(operators) > _FEW:
        out.append(f"  and {', '.join(f'{name} {count}' for name, count in operators[_FEW:])}")
    return out


def spec_lines(specs: list[dict[str, Any]]) -> list[str]:
    """A line for each input or output: name, dtype, shape."""
    shapes = ["x".join("?" if d is None else str(d) for d in spec["shape"]) or "scalar" for spec in specs]
    return table([[s["name"], s["dtype"], shape] for s, shape in zip(specs, shapes, strict=True)], indent=2)


def _tensors(graph: Graph) -> list[ir.TensorProtocol]:
    """Weights, those that an exporter wrote as Constant nodes included; single numbers left out."""
    import onnx_ir as ir

    found = list(graph.weights())
    for node in graph.nodes():
        value = node.attributes.get("value") if node.op_type == "Constant" else None
        if value is not None and value.type == ir.AttributeType.TENSOR:
            found.append(value.as_tensor())
    return [tensor for tensor in found if tensor.size > 1 or tensor.shape]


def _external_files(path: Path) -> list[str]:
    """Names of the files beside the model that hold weights; the graph was loaded, so they are safe."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    weights = onnx.load(path, load_external_data=False).graph.initializer
    return sorted({ExternalDataInfo(tensor).location for tensor in weights if uses_external_data(tensor)})


def _by_dtype(tensors: list[ir.TensorProtocol]) -> tuple[Counter[str], Counter[str]]:
    """Elements and bytes of the tensors by dtype."""
    from edgebig.graph.graph import dtype_name

    elements: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        name = dtype_name(tensor.dtype)
        elements[name] += tensor.size
        sizes[name] += tensor.nbytes
    return elements, sizes
