"""Graph: what it reads and writes, and that nothing but a whole ONNX model gets in."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from textnets import as_graph, as_model, assert_near, net, normal, run

import edgebig.graph.graph as graph_module
from edgebig.errors import GraphError, SourceError
from edgebig.graph import Executor, Graph
from edgebig.graph.check import check_graph
from edgebig.spec import TensorSpec

BRANCHES = """
    y = If(c) <
        then_branch = first () => (float[2] a) { w = Constant<value = float[2] {1, 2}>() a = Add(x, w) },
        else_branch = second () => (float[2] b) { b = Neg(x) }
    >
"""


def test_a_file_is_read_with_its_specs_and_written_back_the_same(tmp_path: Path) -> None:
    model = tiny.mlp()
    onnx.save(model, tmp_path / "mlp.onnx")
    graph = Graph.load(str(tmp_path / "mlp.onnx"))
    assert graph.name == "mlp"
    assert graph.inputs == (TensorSpec("x", "float32", ("batch", 8)),)
    assert graph.outputs == (TensorSpec("y", "float32", ("batch", 4)),)
    assert graph.opset == tiny.OPSET
    assert graph.weight_bytes == 4 * (8 * 16 + 16 + 16 * 4 + 4)

    graph.save(tmp_path / "new" / "folder" / "again.onnx")
    feeds = {"x": normal(5, 8)}
    assert_near(run(tmp_path / "new" / "folder" / "again.onnx", feeds), run(model, feeds), 0)


def test_specs_name_every_dtype_and_kind_of_axis() -> None:
    graph = as_graph(
        net(
            "float16[N,?,3] a, bfloat16[2] b, int64 c, bool[M] d, double[1] e, float8e4m3fn[1] f",
            "float16[N,?,3] g",
            "g = Identity(a)",
        )
    )
    dtypes = ["float16", "bfloat16", "int64", "bool", "float64", "float8_e4m3fn"]
    assert [s.dtype for s in graph.inputs] == dtypes
    assert [s.shape for s in graph.inputs] == [("N", None, 3), (2,), (), ("M",), (1,), (1,)]


def test_nodes_and_weights_inside_branches_count() -> None:
    graph = as_graph(net("float[2] x, bool c", "float[2] y", BRANCHES))
    assert sorted(n.op_type for n in graph.nodes()) == ["Add", "Constant", "If", "Neg"]
    model = net(
        "float[2] x, bool c", "float[2] y", BRANCHES.replace("w = Constant<value = float[2] {1, 2}>()", ""), check=False
    )
    branch = model.graph.node[0].attribute[0].g
    branch.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "w"))
    onnx.checker.check_model(model, full_check=True)
    assert as_graph(model).weight_bytes == 8


def test_a_clone_is_independent_and_shares_the_weights() -> None:
    graph = as_graph(tiny.mlp())
    clone = graph.clone()
    clone.model.graph.remove(clone.model.graph[-1], safe=False)
    assert (len(graph.nodes()), len(clone.nodes())) == (3, 2)
    pairs = zip(graph.weights(), as_graph(tiny.mlp()).clone().weights(), strict=True)
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs)
    assert [a is b for a, b in zip(graph.weights(), clone.weights(), strict=True)] == [True] * 4


def test_weights_that_ir_3_lists_among_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    weight = {"w": normal(3, 2)}
    model = net("float[N,3] x, float[3,2] w", "float[N,2] y", "y = MatMul(x, w)", weight, opset=9, ir_version=3)
    onnx.save(model, tmp_path / "old.onnx")
    graph = Graph.load(tmp_path / "old.onnx")
    assert [s.name for s in graph.inputs] == ["x"]
    assert graph.model.ir_version == 8
    assert_near(run(as_model(graph), {"x": normal(4, 3)}), run(model, {"x": normal(4, 3)}), 0)


def test_a_newer_ir_version_is_written_as_one_that_devices_read(tmp_path: Path) -> None:
    model = tiny.add_one()
    model.ir_version = graph_module.MAX_IR_VERSION + 1
    onnx.save(model, tmp_path / "new.onnx")
    graph = Graph.load(tmp_path / "new.onnx")
    graph.save(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").ir_version == graph_module.MAX_IR_VERSION


def test_large_weights_go_to_a_file_beside_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "_EXTERNAL_ABOVE", 100)
    as_graph(tiny.mlp()).save(tmp_path / "big.onnx")
    assert (tmp_path / "big.onnx.data").stat().st_size >= 512
    again = Graph.load(tmp_path / "big.onnx")
    feeds = {"x": normal(2, 8)}
    assert_near(run(tmp_path / "big.onnx", feeds), run(tiny.mlp(), feeds), 0)
    assert_near(run(as_model(again), feeds), run(tiny.mlp(), feeds), 0)


def test_a_model_too_large_for_memory_keeps_its_large_weights_in_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"w": normal(8, 512), "k": normal(512, 4, seed=1), "b": normal(4, seed=2)}
    model = net("float[N,8] x", "float[N,4] y", "h = MatMul(x, w) m = MatMul(h, k) y = Add(m, b)", weights)
    external = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.save(external, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    monkeypatch.setattr(graph_module, "_EXTERNAL_ABOVE", 10_000)
    graph = Graph.load(tmp_path / "m.onnx")
    kinds = {str(t.name): isinstance(t, ir.ExternalTensor) for t in graph.weights()}
    assert kinds == {"w": True, "k": True, "b": False}
    check_graph(graph, "loading")
    feeds = {"x": normal(2, 8)}
    with Executor(graph) as executor:
        assert_near(executor.run(feeds), run(model, feeds))

    graph = Graph.load(tmp_path / "m.onnx")
    monkeypatch.setattr(graph_module, "_EXTERNAL_ABOVE", 1 << 30)
    graph.save(tmp_path / "elsewhere" / "m.onnx")
    assert [f.name for f in (tmp_path / "elsewhere").iterdir()] == ["m.onnx"]
    assert_near(run(tmp_path / "elsewhere" / "m.onnx", feeds), run(model, feeds))


def test_the_file_systems_own_errors_come_through_when_saving(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        as_graph(tiny.mlp()).save(tmp_path / "file" / "model.onnx")
    if os.path.exists("/dev/full"):
        (tmp_path / "full.onnx").symlink_to("/dev/full")
        with pytest.raises(OSError) as caught:
            as_graph(tiny.mlp()).save(tmp_path / "full.onnx")
        assert caught.value.errno == errno.ENOSPC


def test_an_unknown_input_is_refused_with_those_there_are() -> None:
    graph = as_graph(tiny.two_inputs())
    assert graph.require_input("right").name == "right"
    with pytest.raises(GraphError, match=r"no input 'middle': its inputs are left, right"):
        graph.require_input("middle")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = tiny.mlp().SerializeToString()
    path = tmp_path / "cut.onnx"
    for end in range(0, len(whole), 3):
        path.write_bytes(whole[:end])
        with pytest.raises(SourceError, match="is not an ONNX model"):
            Graph.load(path)
    path.write_bytes(whole)
    Graph.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an ONNX model"),
        (b"<html><body>404: Not Found</body></html>\n", "is not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 2484091\n", "is not an ONNX model"),
        (b"PK\x03\x04" + bytes(60), "is not an ONNX model"),
        (b"\x80\x02}q\x00.", "is not an ONNX model"),
        (onnx.ModelProto().SerializeToString(), "no graph with outputs"),
        (onnx.ModelProto(ir_version=9).SerializeToString(), "no graph with outputs"),
        (onnx.TensorProto(name="w", dims=[3], data_type=1).SerializeToString(), "is not an ONNX model"),
    ],
    ids=["empty", "html", "git-lfs pointer", "zip", "pickle", "empty model", "version only", "a tensor"],
)
def test_other_files_are_refused_with_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        Graph.load(path)
    assert str(caught.value).startswith(str(path)) and "export or copy it anew" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_without_outputs_or_without_opset_is_refused(tmp_path: Path) -> None:
    for field in ("output", "opset_import"):
        model = tiny.mlp()
        model.graph.ClearField("output") if field == "output" else model.ClearField("opset_import")
        path = tmp_path / f"{field}.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(SourceError, match="no graph with outputs in it"):
            Graph.load(path)


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no such file: .*gone\.onnx"):
        Graph.load(tmp_path / "gone.onnx")
    with pytest.raises(SourceError, match="cannot read .*: Is a directory"):
        Graph.load(tmp_path)
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    with pytest.raises(SourceError, match=r"cannot read .*loop\.onnx"):
        Graph.load(tmp_path / "loop.onnx")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "random.onnx"
    path.write_bytes(data)
    with pytest.raises(SourceError):
        Graph.load(path)


_BRANCHED = net("float[2] x, bool c", "float[2] y", BRANCHES).SerializeToString()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, len(_BRANCHED) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_and_nothing_else(tmp_path: Path, where: int, byte: int) -> None:
    damaged = bytearray(_BRANCHED)
    damaged[where] = byte
    path = tmp_path / "damaged.onnx"
    path.write_bytes(bytes(damaged))
    try:
        Graph.load(path)
    except SourceError as error:
        assert str(path) in str(error)
