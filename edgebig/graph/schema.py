"""Questions about operators that ONNX's own schemas answer."""

from __future__ import annotations

import onnx
import onnx_ir as ir


def accepts(node: ir.Node, index: int, dtype: ir.DataType) -> bool:
    """Whether the operator's schema takes ``dtype`` at that input."""
    schema = schema_of(node)
    if schema is None or not schema.inputs:
        return False
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return f"tensor({dtype.name.lower()})" in allowed.get(formal.type_str, [formal.type_str])


def schema_of(node: ir.Node) -> onnx.defs.OpSchema | None:
    """The schema of a standard operator at its graph's opset."""
    version = node.version or (node.graph.opset_imports.get("") if node.graph is not None else None)
    if node.domain or version is None:
        return None
    try:
        return onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return None
