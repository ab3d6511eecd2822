"""split_merged: Optimum's merged decoders become the two graphs that they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from textnets import assert_near, normal

import edgebig
from edgebig.errors import UsageError
from edgebig.graph import Executor, Graph
from edgebig.source import read_onnx

EMPTY = np.zeros((0, 3), np.float32)


def merged(path: Path) -> Path:
    """A decoder ``y = (x + past if use_cache_branch else x * state) @ w``; one branch computes ``cross``."""

    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    outputs = [value("y", "n", 3), value("cross", "m", 3)]
    two = numpy_helper.from_array(np.array(2, np.float32), "c")
    three = numpy_helper.from_array(np.array(3, np.float32), "c")
    with_past = helper.make_graph(
        [
            helper.make_node("Add", ["x", "past"], ["sum"], name="sum"),
            helper.make_node("Mul", ["sum", "c"], ["scaled"], name="scaled"),
            helper.make_node("MatMul", ["scaled", "w"], ["y"], name="product"),
            helper.make_node("Constant", [], ["cross"], name="none", value=numpy_helper.from_array(EMPTY)),
        ],
        "with_past",
        [],
        outputs,
        [two],
    )
    no_past = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "c"], ["sum"], name="sum"),
            helper.make_node("MatMul", ["sum", "w"], ["y"], name="product"),
            helper.make_node("Mul", ["state", "c"], ["cross"], name="cross"),
        ],
        "no_past",
        [],
        outputs,
        [three],
    )
    choice = helper.make_node(
        "If", ["use_cache_branch"], ["y", "cross"], name="optimum::if", then_branch=with_past, else_branch=no_past
    )
    switch = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    inputs = [value("x", "n", 3), value("past", "n", 3), value("state", "m", 3), switch]
    weights = [numpy_helper.from_array(normal(3, 3), "w"), numpy_helper.from_array(normal(1), "c")]
    graph = helper.make_graph([choice], "merged", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


FEEDS = {"x": normal(2, 3, seed=1), "past": normal(2, 3, seed=2), "state": normal(4, 3, seed=3)}


def test_each_branch_becomes_a_part_that_answers_as_the_merged_file(tmp_path: Path) -> None:
    path = merged(tmp_path / "decoder_model_merged.onnx")
    source = read_onnx(path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = {}
    for part, switch in zip(source.parts, (False, True), strict=True):
        expected = dict(zip(("y", "cross"), session.run(None, FEEDS | {"use_cache_branch": [switch]}), strict=True))
        with Executor(part.graph) as executor:
            answer = executor.run(FEEDS)
        assert part.answers == tuple(answer)
        assert_near(answer, {name: expected[name] for name in answer})
        found[part.name] = [s.name for s in part.graph.inputs], list(answer)
        assert "If" not in {node.op_type for node in part.graph.nodes()} and part.original == path
        with Executor(path) as executor:  # what is given makes the original answer the same
            again = executor.run({**FEEDS, **part.given}, part.answers)
        assert_near(again, answer)
    assert found == {
        "decoder_model": (["x", "state"], ["y", "cross"]),
        "decoder_with_past_model": (["x", "past"], ["y"]),
    }
    assert "decoder_model and decoder_with_past_model" in source.notes[1]


@pytest.mark.parametrize(("value", "name"), [(0, "decoder_model"), (True, "decoder_with_past_model")])
def test_freezing_the_switch_chooses_a_part(value: int, name: str, tmp_path: Path) -> None:
    path = merged(tmp_path / "m.onnx")
    bundle = edgebig.compile(path, out=tmp_path / "b", freeze={"use_cache_branch": value})
    assert list(bundle.manifest.parts) == [name]
    with pytest.raises(UsageError, match="the model has no input 'use_cache'"):
        edgebig.compile(path, out=tmp_path / "c", freeze={"use_cache": 1})


def test_a_switch_that_decides_something_else_is_left(tmp_path: Path) -> None:
    model = onnx.load(merged(tmp_path / "m.onnx"))
    model.graph.node.append(helper.make_node("Not", ["use_cache_branch"], ["other"], name="other"))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.BOOL, [1]))
    onnx.save(model, tmp_path / "other.onnx")
    (part,) = read_onnx(tmp_path / "other.onnx").parts
    assert part.name == "model" and "If" in {node.op_type for node in part.graph.nodes()}


@pytest.mark.parametrize(("name", "is_int8"), [("t5", False), ("t5", True), ("marian", False), ("whisper", False)])
def test_optimums_merged_decoders_compile(name: str, is_int8: bool, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    exporter = pytest.importorskip("optimum.exporters.onnx")
    from source.tiny_models import save

    task = "automatic-speech-recognition" if name == "whisper" else "text2text-generation"
    exporter.main_export(
        str(save(name, tmp_path)), output=tmp_path / "onnx", task=f"{task}-with-past", do_validation=False
    )
    path = tmp_path / "onnx" / "decoder_model_merged.onnx"
    if is_int8:  # as hubs offer them
        path = tmp_path / "decoder_model_merged_quantized.onnx"
        quantize_dynamic(tmp_path / "onnx" / "decoder_model_merged.onnx", path, extra_options={"EnableSubgraph": True})
    bundle = edgebig.compile(path, target="l4", precision="fp16", out=tmp_path / "gpu")
    assert set(bundle.manifest.parts) == {"decoder_model", "decoder_with_past_model"}
    for part in bundle.manifest.parts.values():
        assert min(s["cosine"] for s in part.similarity.values()) > 0.999
        assert (tmp_path / "gpu" / part.engines[0].path).stat().st_size > 1000
    alone = {n: Graph.load(tmp_path / "onnx" / f"{n}.onnx") for n in bundle.manifest.parts}
    for part, separate in alone.items():
        with Executor(bundle.file(bundle.part(part).graph)) as executor:
            assert set(executor.output_names) == {s.name for s in separate.outputs}
