"""Brings biases into ONNX Runtime's integer matrix products, which its own fusions leave beside them."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

_DOMAIN, _PRODUCT = "com.microsoft", "MatMulIntegerToFloat"
_BIAS = 6
"""Place of the optional bias among the inputs (ONNX Runtime, docs/ContribOperators.md)."""


def fuse_biases(path: Path) -> int:
    """Makes ``MatMulIntegerToFloat(a, b, ...) + bias`` one node, in the file, and returns how many there were.

    The kernel adds the bias where it writes a value anyway; an Add would read and write all of them once more. The
    bias must be a constant of one axis that is as long as the product's last, and the Add the product's only reader.
    """
    model = ir.load(path)
    main = model.graph
    fused = 0
    for node in list(main):
        if node.op_type != _PRODUCT or node.domain != _DOMAIN or len(node.inputs) > _BIAS:
            continue
        product = node.outputs[0]
        readers = [user for user, _ in product.uses()]
        if len(readers) != 1 or product.is_graph_output() or readers[0].op_type != "Add" or readers[0].domain:
            continue
        add = readers[0]
        bias = add.inputs[1] if add.inputs[0] is product else add.inputs[0]
        if bias is None or not _is_bias(bias, node.inputs[1]):
            continue
        result = add.outputs[0]
        inputs = [*node.inputs, *([None] * (_BIAS - len(node.inputs))), bias]
        merged = ir.Node(_DOMAIN, _PRODUCT, inputs, list(node.attributes.values()), name=node.name)
        merged.outputs[0].name, merged.outputs[0].type, merged.outputs[0].shape = result.name, result.type, result.shape
        main.insert_before(node, merged)
        ir.convenience.replace_all_uses_with(result, merged.outputs[0], replace_graph_outputs=True)
        main.remove([add, node], safe=True)
        fused += 1
    if fused:
        ir.save(model, path)  # weights in a file beside it stay there
    return fused


def _is_bias(value: ir.Value, weight: ir.Value | None) -> bool:
    """Whether it is a float32 constant with one element for each column of the weight."""
    tensor, columns = value.const_value, None if weight is None or weight.const_value is None else weight.const_value
    return (
        tensor is not None
        and columns is not None
        and value.producer() is None
        and tensor.dtype == ir.DataType.FLOAT
        and len(tensor.shape) == 1
        and tensor.shape[0] == columns.shape[-1]
    )
