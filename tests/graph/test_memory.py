"""Weights lie in a file, once, and read as they were."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from textnets import as_graph, net
from tiny import mlp

from edgebig.graph import Executor, Graph
from edgebig.graph import memory as memory_module
from edgebig.graph.memory import frugal, load, own_tensors, write_weights


@pytest.fixture
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "LARGE", 1)
    monkeypatch.setattr(memory_module, "_SMALL", 1)


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}


@pytest.mark.usefixtures("_everything_is_large")
def test_large_weights_leave_memory_with_the_graph(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "mlp.onnx")
    plain = as_graph(mlp())
    graph = Graph.load(tmp_path / "mlp.onnx")
    tensors = {name: v.const_value for name, v in graph.model.graph.initializers.items()}
    assert tensors and all(isinstance(t, ir.ExternalTensor) for t in tensors.values())
    for name, array in weights_of(mlp()).items():
        np.testing.assert_array_equal(tensors[name].numpy(), array)
    file = Path(tensors[name].path)
    assert file.is_file() and file.parent != tmp_path
    assert graph.digest() == plain.digest() and graph.weight_bytes == plain.weight_bytes
    copy = graph.clone()
    graph.save(tmp_path / "saved.onnx")
    assert weights_of(onnx.load(tmp_path / "saved.onnx")).keys() == tensors.keys()
    assert not (tmp_path / "saved.onnx.data").exists()
    # a clone keeps the file; the last of its tensors takes it along
    del graph, tensors
    gc.collect()
    x = np.ones((2, 8), np.float32)
    with Executor(copy) as executor, Executor(plain) as other:
        found, expected = executor.run({"x": x}), other.run({"x": x})
    np.testing.assert_array_equal(found["y"], expected["y"])
    assert file.is_file()
    del copy, executor
    gc.collect()
    assert not file.exists()


@pytest.mark.usefixtures("_everything_is_large")
def test_where_no_file_can_be_written_weights_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    onnx.save(mlp(), tmp_path / "mlp.onnx")
    monkeypatch.setattr(memory_module, "write_weights", full)
    graph = Graph.load(tmp_path / "mlp.onnx")
    assert all(isinstance(v.const_value, ir.Tensor) for v in graph.model.graph.initializers.values())
    assert graph.digest() == as_graph(mlp()).digest()


def test_no_tensor_stays_in_the_message_that_was_read(tmp_path: Path) -> None:
    model = net(
        "bool c, float[2] x",
        "float[2] y",
        """y = If (c) <
            then_branch = then () => (float[2] a) { k = Constant <value = float[2] {1, 2}> ()  a = Add(x, k) },
            else_branch = other () => (float[2] b) { b = Identity(x) }
        >""",
    )
    onnx.save(model, tmp_path / "m.onnx")
    graph = Graph.load(tmp_path / "m.onnx")
    kinds = [type(a.value) for n in graph.nodes() for a in n.attributes.values() if a.type == ir.AttributeType.TENSOR]
    kinds += [type(v.const_value) for g in graph.model.graphs() for v in g.initializers.values()]
    assert kinds and set(kinds) == {ir.Tensor}


def test_every_type_is_owned_and_written_as_it_is(tmp_path: Path) -> None:
    dtypes = [ir.DataType.FLOAT, ir.DataType.BFLOAT16, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN, ir.DataType.BOOL]
    arrays = [np.arange(7).astype(d.numpy()) for d in dtypes]
    values = []
    for dtype, array in zip(dtypes, arrays, strict=True):
        proto = ir.to_proto(ir.Tensor(array, dtype=dtype, name=dtype.name))
        values.append(ir.Value(name=dtype.name, const_value=ir.from_proto(proto)))
    graph = ir.Graph([], [], nodes=[], initializers=values)
    own_tensors([], [graph])
    assert all(isinstance(v.const_value, ir.Tensor) for v in values)
    written = write_weights([v.const_value for v in values], tmp_path / "weights")
    for tensor, value, array in zip(written, values, arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)
        value.const_value = tensor
    load(values)
    for value, array in zip(values, arrays, strict=True):
        assert isinstance(value.const_value, ir.Tensor)
        np.testing.assert_array_equal(value.const_value.numpy(), array)


def test_loading_frugally_changes_nothing_else() -> None:
    with pytest.raises(ValueError, match="inside"), frugal():
        raise ValueError("inside")
    with frugal():
        found = np.ones(1 << 20).sum()
    assert found == 1 << 20
