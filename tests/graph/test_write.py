"""A model's file, written without a second copy of its weights."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from nets import net, node, normal
from onnx import numpy_helper

from edgebig.graph import Graph
from edgebig.graph.memory import move_to_file
from edgebig.graph.write import _varint, write_model


def by_name(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def large() -> Graph:
    weights = {"w": normal(64, 33), "h": normal(33, 20).astype(np.float16), "s": np.array([2], np.int64)}
    return net(
        [node("MatMul", "x w", "a"), node("Cast", "h", "c", to=1), node("MatMul", "a c", "y")],
        {"x": [1, 64]},
        ["y"],
        weights,
    )


def test_the_file_holds_what_onnx_ir_would_write(tmp_path: Path) -> None:
    graph = large()
    expected = ir.to_proto(graph.model)
    write_model(graph.model, tmp_path / "m.onnx")
    found = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(found)
    assert found == expected
    assert [t.name for t in found.graph.initializer] == list(graph.model.graph.initializers)
    assert ir.to_proto(graph.model) == expected  # the graph has its weights still


def test_weights_in_files_and_in_branches_are_written(tmp_path: Path) -> None:
    graph = large()
    expected = by_name(ir.to_proto(graph.model))
    big = net([node("MatMul", "x w", "y")], {"x": [1, 2048]}, ["y"], {"w": normal(2048, 2100)})
    move_to_file(big.model.graph)
    weight = big.model.graph.initializers["w"]
    assert isinstance(weight.const_value, ir.ExternalTensor)
    write_model(big.model, tmp_path / "big.onnx")
    written = onnx.load(tmp_path / "big.onnx").graph.initializer[0]
    assert np.array_equal(numpy_helper.to_array(written), weight.const_value.numpy())
    assert isinstance(weight.const_value, ir.ExternalTensor) and not (tmp_path / "big.onnx.data").exists()
    write_model(graph.model, tmp_path / "m.onnx")
    assert by_name(onnx.load(tmp_path / "m.onnx")) == expected


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_types_that_numpy_lacks(dtype: type, tmp_path: Path) -> None:
    graph = Graph(ir.from_proto(tiny.mlp()))
    values = np.arange(2999).reshape(-1) % 7
    tensor = ir.Tensor(values.astype(dtype), name="odd")
    value = ir.Value(name="odd", const_value=tensor, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype))
    graph.model.graph.register_initializer(value)
    write_model(graph.model, tmp_path / "m.onnx")
    found = by_name(onnx.load(tmp_path / "m.onnx"))["odd"]
    assert found == by_name(ir.to_proto(graph.model))["odd"]
    assert ir.from_proto(found).numpy().astype(int).tolist() == values.tolist()


def test_a_weight_that_is_cut_short_is_no_file(tmp_path: Path) -> None:
    big = net([node("MatMul", "x w", "y")], {"x": [1, 2048]}, ["y"], {"w": normal(2048, 2100)})
    move_to_file(big.model.graph)
    weight = big.model.graph.initializers["w"].const_value
    assert isinstance(weight, ir.ExternalTensor)
    with Path(weight.path).open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises((OSError, ValueError)):
        write_model(big.model, tmp_path / "m.onnx")


@given(st.integers(0, 2**40))
def test_lengths_are_written_as_protobuf_reads_them(value: int) -> None:
    found = _varint(value)
    assert sum((byte & 0x7F) << 7 * i for i, byte in enumerate(found)) == value
    assert all(byte & 0x80 for byte in found[:-1]) and not found[-1] & 0x80
