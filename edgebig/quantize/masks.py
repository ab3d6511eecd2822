"""Brings mask constants near the smallest float32 into the range of FP16."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgebig.graph import Graph

_ABSURD = 1e30
_MASK = -30000.0
_FP16_MAX = 65504.0
_BOUNDS = {"Clip", "Min", "Max"}


def clamp_masks(graph: Graph) -> tuple[str, ...]:
    """Replaces finite float32 constants beyond 1e30 in magnitude; returns a line for each.

    Exporters write "minus infinity" of an attention mask as the smallest float32. In FP16 it
    overflows, and its range ruins any scale. Behind a Softmax -30000 gives the same zeros, two of
    them still add up within FP16, and a row that is masked whole stays finite. Bounds of Clip, Min
    and Max become FP16's own limits instead.
    """
    lines = []
    for value in graph.model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        array = tensor.numpy()
        wide = np.isfinite(array) & (np.abs(array) > _ABSURD)
        if not wide.any():
            continue
        is_bound = all(node.op_type in _BOUNDS for node, _ in value.uses())
        limit = _FP16_MAX if is_bound else -_MASK
        value.const_value = ir.tensor(np.where(wide, np.sign(array) * np.float32(limit), array), name=value.name)
        lines.append(f"{value.name}: {float(np.abs(array).max()):.1e} became {limit:g}")
    for node in graph.nodes():
        lines += _clamp_fill(node)
    return tuple(lines)


def _clamp_fill(node: ir.Node) -> list[str]:
    """The same for the value that a ConstantOfShape fills with."""
    attribute = node.attributes.get("value")
    if node.op_type != "ConstantOfShape" or attribute is None:
        return []
    tensor = attribute.as_tensor()
    if (
        tensor.dtype != ir.DataType.FLOAT
        or not np.all(np.abs(tensor.numpy()) > _ABSURD)
        or not np.isfinite(tensor.numpy()).all()
    ):
        return []
    node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.sign(tensor.numpy()) * np.float32(-_MASK)))
    return [f"{node.name}: {float(tensor.numpy()[0]):.1e} became {float(np.sign(tensor.numpy()[0]) * -_MASK):g}"]
