"""Where things lie, how large they may be, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from edgebig.errors import UsageError
from edgebig.runtime import Session, load
from edgebig.serve import largest_shapes
from edgebig.serve import layout as at
from edgebig.serve.waiting import Spin
from edgebig.spec import TensorSpec

X = TensorSpec("x", "float32", ("batch", 3))
IDS = TensorSpec("ids", "int64", ("batch", None))
Y = TensorSpec("y", "float16", ("batch", 5))


def boxes_model(first_row: int) -> onnx.ModelProto:
    """``y`` of the batch's size, and seven boxes, which no name of an axis tells; an id of 0 takes ``first_row``."""
    value = helper.make_tensor_value_info
    arrays = {
        "w": np.ones((3, 5), np.float32),
        "table": np.zeros((7, 4), np.float32),
        "first": np.array([first_row]),
        "flat": np.array([-1]),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Cast", ["p"], ["y"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["ids", "first"], ["rows"]),
        helper.make_node("Reshape", ["rows", "flat"], ["list"]),
        helper.make_node("Gather", ["table", "list"], ["some"]),
        helper.make_node("ReduceSum", ["some"], ["sum"], keepdims=0),
        helper.make_node("Add", ["table", "sum"], ["boxes"]),
    ]
    ins = [value("x", TensorProto.FLOAT, ["batch", 3]), value("ids", TensorProto.INT64, ["batch", None])]
    outs = [value("y", TensorProto.FLOAT16, ["batch", 5]), value("boxes", TensorProto.FLOAT, [None, 4])]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "boxes", ins, outs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    tiny.write_bundle(tmp_path / "b", {"model": boxes_model(0)})
    with load(tmp_path / "b", threads=1) as opened:
        yield opened


@pytest.fixture
def fails(tmp_path: Path) -> Iterator[Session]:
    """Fails on zeros: there is no such row."""
    tiny.write_bundle(tmp_path / "f", {"model": boxes_model(20)})
    with load(tmp_path / "f", threads=1) as opened:
        yield opened


def test_tensors_lie_apart_and_aligned() -> None:
    layout = at.plan([X, IDS], [Y], [(4, 3), (4, 100), (4, 5)], 3)
    x, ids, y = layout.tensors
    assert [t.entry for t in layout.tensors] == [64, 144, 224]
    assert layout.message == 304
    assert (x.offset, x.capacity) == (832, 64)
    assert (ids.offset, ids.capacity) == (896, 3200)
    assert (y.offset, y.capacity) == (4096, 64)
    assert layout.slot_stride == 4160
    assert layout.names_offset == at.HEADER_SIZE + 3 * at.TENSOR_STRIDE
    assert layout.names_size == len("x.ids.y.")
    assert layout.slots_offset == 4096
    assert layout.slot(2) == 4096 + 2 * 4160
    assert layout.size == 20480 >= layout.slot(3)
    assert all(size % at.ALIGN == 0 for t in layout.tensors for size in (t.offset, t.capacity))


def test_what_cannot_lie_in_shared_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="x: bfloat16 3 cannot lie in shared memory: the dtypes there are float32, "):
        at.plan([TensorSpec("x", "bfloat16", (3,))], [], [(3,)], 1)
    with pytest.raises(UsageError, match="has 9 axes: shared memory takes at most 8"):
        at.plan([TensorSpec("x", "uint8", (1,) * 9)], [], [(1,) * 9], 1)
    with pytest.raises(UsageError, match="the slots would take 4000 GB: give smaller --shapes, or fewer --slots"):
        at.plan([TensorSpec("x", "float32", (10**11,))], [], [(10**11,)], 10)


def test_bins_are_a_quarter_of_a_doubling() -> None:
    assert [at.bucket_ends(n) for n in (0, 3, 4, 47)] == [320, 512, 640, 1048576]


PROFILES = {"x": {"min": [1, 3], "opt": [2, 3], "max": [6, 3]}, "ids": {"min": [1, 1], "opt": [2, 8], "max": [6, 64]}}


def test_the_bundle_s_profiles_say_how_large(session: Session) -> None:
    assert largest_shapes(session, PROFILES, {}) == [(6, 3), (6, 64), (6, 5), (7, 4)]


def test_shapes_that_are_given_go_first(session: Session) -> None:
    given_shapes = {"x": (2, 3), "ids": (2, 9), "boxes": (300, 4)}
    assert largest_shapes(session, PROFILES, given_shapes) == [(2, 3), (2, 9), (2, 5), (300, 4)]


def test_an_axis_s_name_is_enough(session: Session) -> None:
    assert largest_shapes(session, {"ids": PROFILES["ids"]}, {}) == [(6, 3), (6, 64), (6, 5), (7, 4)]


def test_sizes_that_nobody_states_are_asked_for(session: Session, fails: Session) -> None:
    with pytest.raises(UsageError, match="input x: float32 batchx3 has axes of any size.*: give --shapes x:Nx3"):
        largest_shapes(session, {}, {})
    with pytest.raises(UsageError, match=r"the size of output boxes: .* is unknown, .*zeros failed.*--shapes boxes:"):
        largest_shapes(fails, PROFILES, {})
    found = largest_shapes(fails, PROFILES, {"boxes": (9, 4)})
    assert found == [(6, 3), (6, 64), (6, 5), (9, 4)]


def test_shapes_that_do_not_fit_are_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="the model has no input or output 'z': it has x, ids, y, boxes"):
        largest_shapes(session, PROFILES, {"z": (1,)})
    with pytest.raises(UsageError, match="--shapes x:2x4 does not fit x: float32 batchx3"):
        largest_shapes(session, PROFILES, {"x": (2, 4)})


def test_shapes_beyond_memory_are_said_by_the_layout(session: Session) -> None:
    for rows in (10**12, 10**20):
        shapes = {"x": (rows, 3), "ids": (rows, 64), "boxes": (1, 4)}
        sizes = largest_shapes(session, {}, shapes)
        assert sizes == [(rows, 3), (rows, 64), (rows, 5), (1, 4)]
        with pytest.raises(UsageError, match=r"the slots would take \d+ GB: give smaller --shapes, or fewer --slots"):
            at.plan(session.inputs, session.outputs, sizes, 4)


def learned(*waits: int, times: int = 40) -> Spin:
    spin = Spin(300_000)
    for _ in range(times):
        for wait in waits:
            spin.learn(wait)
    return spin


def test_looking_lasts_as_long_as_the_limit_where_waits_are_short() -> None:
    for spin in (Spin(300_000), learned(5_000), learned(290_000, 10_000), learned(5_000, 5_000, 50_000_000)):
        assert spin.look() == 300_000
        assert spin.look(100_000) == 200_000
        assert spin.look(400_000) == 0
    assert Spin(0).look() == 0


def test_there_is_no_looking_where_waits_are_long() -> None:
    spin = Spin(300_000)
    looks = []
    for _ in range(6):
        looks.append(spin.look())
        spin.learn(1_000_000)
    assert looks == [300_000] * 4 + [0, 0]
    assert learned(20_000_000, 45_000_000).look() == 0


def test_one_pause_changes_nothing() -> None:
    spin = learned(5_000)
    spin.learn(3_000_000_000)
    assert spin.look() == 300_000
    slow = learned(33_000_000)
    slow.learn(1_000)
    assert slow.look() == 0
