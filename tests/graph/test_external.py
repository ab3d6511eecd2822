"""External data: read only where it lies whole in the model's own folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import helper
from textnets import as_model, assert_near, net, normal, run

from edgebig.errors import SourceError
from edgebig.graph import Graph

LENGTH = 8 * 16 * 4


def external(path: Path, location: str, offset: str | None = "0", length: str | None = str(LENGTH)) -> Path:
    """The small network at ``path``, its first weight said to lie in ``location``."""
    model = tiny.mlp()
    point_to(model.graph.initializer[0], location, offset, length)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def point_to(tensor: onnx.TensorProto, location: str, offset: str | None = "0", length: str | None = "4") -> None:
    for field in ("raw_data", "float_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)


def weight() -> np.ndarray:
    return onnx.numpy_helper.to_array(tiny.mlp().graph.initializer[0])


def write_data(path: Path, before: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(before) + weight().tobytes())
    return path


@pytest.mark.parametrize(
    ("location", "offset", "length"),
    [
        ("w.bin", "0", str(LENGTH)),
        ("w.bin", None, None),
        ("w.bin", "64", str(LENGTH)),
        ("deeper/w.bin", None, str(LENGTH)),
    ],
)
def test_data_beside_the_model_is_read(tmp_path: Path, location: str, offset: str | None, length: str | None) -> None:
    path = external(tmp_path / "m.onnx", location, offset, length)
    write_data(tmp_path / location, int(offset or 0))
    feeds = {"x": normal(3, 8)}
    graph = Graph.load(path)
    graph.save(tmp_path / "elsewhere" / "saved.onnx")
    assert_near(run(tmp_path / "elsewhere" / "saved.onnx", feeds), run(tiny.mlp(), feeds), 0)


def test_a_link_inside_the_folder_and_a_folder_that_is_a_link_are_followed(tmp_path: Path) -> None:
    path = external(tmp_path / "real" / "m.onnx", "w.bin")
    write_data(tmp_path / "real" / "blobs" / "1234")
    (tmp_path / "real" / "w.bin").symlink_to("blobs/1234")
    (tmp_path / "link").symlink_to("real")
    for read in (path, tmp_path / "link" / "m.onnx"):
        assert_near(run(as_model(Graph.load(read)), {"x": normal(1, 8)}), run(tiny.mlp(), {"x": normal(1, 8)}), 0)


def _outside(tmp_path: Path) -> Path:
    write_data(tmp_path / "secret.bin")
    return external(tmp_path / "model" / "m.onnx", "../secret.bin")


def _absolute(tmp_path: Path) -> Path:
    return external(tmp_path / "model" / "m.onnx", str(write_data(tmp_path / "secret.bin")))


def _absolute_inside(tmp_path: Path) -> Path:
    return external(tmp_path / "model" / "m.onnx", str(write_data(tmp_path / "model" / "w.bin")))


def _around(tmp_path: Path) -> Path:
    write_data(tmp_path / "secret.bin")
    return external(tmp_path / "model" / "m.onnx", "sub/../../secret.bin")


def _sibling(tmp_path: Path) -> Path:
    write_data(tmp_path / "model2" / "w.bin")
    return external(tmp_path / "model" / "m.onnx", "../model2/w.bin")


def _link(tmp_path: Path) -> Path:
    path = external(tmp_path / "model" / "m.onnx", "w.bin")
    (tmp_path / "model" / "w.bin").symlink_to(write_data(tmp_path / "secret.bin"))
    return path


def _linked_folder(tmp_path: Path) -> Path:
    path = external(tmp_path / "model" / "m.onnx", "sub/w.bin")
    write_data(tmp_path / "secret" / "w.bin")
    (tmp_path / "model" / "sub").symlink_to(tmp_path / "secret")
    return path


@pytest.mark.parametrize("make", [_outside, _absolute, _absolute_inside, _around, _sibling, _link, _linked_folder])
def test_data_outside_of_the_folder_is_never_read(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(SourceError, match=r"the weight 'a' lies in .*, outside the model's folder: move the data"):
        Graph.load(make(tmp_path))


@pytest.mark.parametrize("location", ["gone.bin", "", ".", "m.onnx/w.bin", "sub", "w\0.bin", "loop.bin"])
def test_data_that_is_not_there_is_named(tmp_path: Path, location: str) -> None:
    path = external(tmp_path / "m.onnx", location)
    (tmp_path / "sub").mkdir()
    (tmp_path / "loop.bin").symlink_to("loop.bin")
    with pytest.raises(SourceError, match="the weight 'a' lies in "):
        Graph.load(path)


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        ("0", str(LENGTH)),
        ("1", str(LENGTH - 1)),
        (None, None),
        ("-8", str(LENGTH)),
        ("0", "-4"),
        ("x", "4"),
        ("0", "1e3"),
    ],
)
def test_data_that_is_cut_short_or_misplaced_is_refused(tmp_path: Path, offset: str | None, length: str | None) -> None:
    path = external(tmp_path / "m.onnx", "w.bin", offset, length)
    (tmp_path / "w.bin").write_bytes(weight().tobytes()[: LENGTH - 1])
    with pytest.raises(SourceError, match="the weight 'a' lies in 'w.bin'"):
        Graph.load(path)


def test_data_shorter_than_the_weights_shape_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx", "w.bin", "0", str(LENGTH - 4))
    write_data(tmp_path / "w.bin")
    with pytest.raises(SourceError, match="the weight 'a' lies in 'w.bin'"):
        Graph.load(path)


def test_a_constant_inside_a_branch_is_checked_too(tmp_path: Path) -> None:
    body = """y = If(c) <then_branch = t () => (float[1] a) { a = Constant<value = float[1] {1}>() },
                         else_branch = e () => (float[1] b) { b = Identity(x) }>"""
    model = net("float[1] x, bool c", "float[1] y", body)
    point_to(model.graph.node[0].attribute[0].g.node[0].attribute[0].t, "../secret.bin")
    (tmp_path / "model").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4))
    (tmp_path / "model" / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match="outside the model's folder"):
        Graph.load(tmp_path / "model" / "m.onnx")


def test_a_constant_inside_a_local_function_is_checked_too(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["w"], value=helper.make_tensor("w", 1, [1], [1.0]))
    point_to(constant.attribute[0].t, "../secret.bin")
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("own", 1)]
    function = helper.make_function(
        "own", "Shift", ["p"], ["q"], [constant, helper.make_node("Add", ["p", "w"], ["q"])], opsets
    )
    value = [helper.make_tensor_value_info(n, 1, [1]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Shift", ["x"], ["y"], domain="own")], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9)
    (tmp_path / "model").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4))
    (tmp_path / "model" / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match="outside the model's folder"):
        Graph.load(tmp_path / "model" / "m.onnx")
