"""TensorRT-RTX: real engines, built with no GPU, and refusals that say what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from textnets import net, normal

from edgebig.build import Profile, build_engine, check_parse, rtx_version
from edgebig.errors import BuildError, MissingExtra
from edgebig.graph import Graph
from edgebig.graph.passes import FoldConstants, FreezeInputs, RaiseOpset, RemoveNoOps, SetShapes, run_passes

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

BATCHES = {"x": Profile((1, 8), (4, 8), (16, 8))}


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    onnx.save(tiny.mlp(), tmp_path / "mlp.onnx")
    return tmp_path / "mlp.onnx"


def saved(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, path)
    return path


def test_the_version_is_the_librarys() -> None:
    assert rtx_version() == trt.__version__
    assert [int(p) for p in rtx_version().split(".")[:2]] >= [1, 2]


def test_without_the_library_one_line_says_what_to_install(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(MissingExtra, match=r'edgebig\[rtx\] .*pip install "edgebig\[rtx\]"'):
        check_parse(mlp)
    with pytest.raises(MissingExtra):
        rtx_version()


@pytest.mark.parametrize("capabilities", [["8.9"], ["12.1"], ["8.6", "8.9"], ["8.0", "8.9", "12.0"]])
def test_engines_are_built_for_each_capability_and_for_several(mlp: Path, capabilities: list[str]) -> None:
    engine = build_engine(mlp, capabilities, BATCHES)
    assert isinstance(engine, bytes)
    assert len(engine) > 4 * (8 * 16 + 16 + 16 * 4 + 4)


def test_what_a_processor_cannot_do_is_told_in_the_builders_words(mlp: Path, tmp_path: Path) -> None:
    """Turing has matrix products of FP16, none of FP32."""
    with pytest.raises(BuildError, match=r"cannot build mlp for sm 7\.5: .*FP32 GEMM is not supported"):
        build_engine(mlp, ["7.5"], BATCHES)
    half = net("float16[4,8] x", "float16[4,4] y", "k = Cast<to = 10>(w) y = MatMul(x, k)", {"w": normal(8, 4)})
    assert build_engine(saved(tmp_path / "half.onnx", half), ["7.5"], {})


def test_progress_counts_the_steps_of_each_phase(mlp: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    build_engine(mlp, ["8.9"], BATCHES, lambda *step: seen.append(step))
    assert seen
    assert all(1 <= done <= steps for _, done, steps in seen)
    assert any(done == steps for _, done, steps in seen)


def test_dynamic_axes_need_their_profiles_and_use_them(mlp: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot build mlp for sm 8\.9: .*profile"):
        build_engine(mlp, ["8.9"], {})
    with pytest.raises(BuildError, match="mlp"):
        build_engine(mlp, ["8.9"], {"x": Profile((1, 7), (4, 7), (16, 7))})
    with pytest.raises(BuildError, match="mlp"):
        build_engine(mlp, ["8.9"], {"x": Profile((4, 8), (2, 8), (1, 8))})


def test_a_capability_that_it_does_not_build_for_is_refused(mlp: Path) -> None:
    for capability in ("9.0", "10.0", "6.1"):
        with pytest.raises(
            BuildError, match=rf"builds no engine for compute capability {capability}: compile for a target"
        ):
            build_engine(mlp, [capability], BATCHES)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8", "fp8"])
def test_precisions_that_the_graph_carries_are_built(tmp_path: Path, kind: str) -> None:
    if kind in {"float16", "bfloat16"}:
        number = {"float16": 10, "bfloat16": 16}[kind]
        body = f"k = Cast<to = {number}>(w) h = MatMul(x, k) y = Relu(h)"
        model = net(f"{kind}[4,16] x", f"{kind}[4,32] y", body, {"w": normal(16, 32)}, opset=22, ir_version=10)
    else:
        number = {"int8": 3, "fp8": 17}[kind]
        body = """xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
            wq = QuantizeLinear<axis = 1>(w, t, v) wd = DequantizeLinear<axis = 1>(wq, t, v) y = MatMul(xd, wd)"""
        model = net(
            "float[4,16] x",
            "float[4,32] y",
            body,
            {"w": normal(16, 32), "s": np.float32(0.05), "t": np.full(32, 0.02, np.float32)},
            check=False,
        )
        for name, dims in (("z", []), ("v", [32])):
            model.graph.initializer.append(
                onnx.helper.make_tensor(name, number, dims, bytes(int(np.prod(dims, initial=1))), raw=True)
            )
        onnx.checker.check_model(model, full_check=True)
    path = saved(tmp_path / "m.onnx", model)
    check_parse(path)
    assert len(build_engine(path, ["8.9"], {})) > 16 * 32


def test_fp8_for_a_processor_without_it_is_refused(tmp_path: Path) -> None:
    body = """xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
        wq = QuantizeLinear(w, s, z) wd = DequantizeLinear(wq, s, z) y = MatMul(xd, wd)"""
    model = net("float[4,16] x", "float[4,32] y", body, {"w": normal(16, 32), "s": np.float32(0.05)}, check=False)
    model.graph.initializer.append(onnx.helper.make_tensor("z", 17, [], b"\0", raw=True))
    with pytest.raises(BuildError, match=r"cannot build m for sm 8\.0: "):
        build_engine(saved(tmp_path / "m.onnx", model), ["8.0"], {})


@pytest.mark.parametrize(
    ("inputs", "body", "operator"),
    [
        ("float[2] x", "h = Relu(x) u, a, b, y0 = Unique(h) y = Cast<to = 1>(y0)", "Unique"),
        ("float[2] x", "y = own.Secret(x)", "Secret"),
        ("float[2] x", "y = NoSuchOperator(x)", "NoSuchOperator"),
    ],
)
def test_a_refusal_names_the_node_and_says_what_to_do(tmp_path: Path, inputs: str, body: str, operator: str) -> None:
    model = net(inputs, "float[N] y", body, check=False)
    if "own." in body:
        model.opset_import.append(onnx.helper.make_opsetid("own", 1))
    for node in model.graph.node:
        node.name = f"layer/{node.op_type}"
    with pytest.raises(BuildError) as caught:
        check_parse(saved(tmp_path / "net.onnx", model))
    message = str(caught.value)
    assert f"TensorRT's parser refuses the {operator} node 'layer/{operator}' of net: " in message
    assert "replace that operator in the model" in message and "--target cpu" in message
    assert "Assertion failed" not in message and "\n" not in message


def test_a_bias_in_int32_is_refused_as_the_rules_say(tmp_path: Path) -> None:
    weights = {"w": normal(8, 4), "q": np.arange(4, dtype=np.int32), "s": np.float32(0.1)}
    model = net("float[2,8] x", "float[2,4] y", "b = DequantizeLinear(q, s) h = MatMul(x, w) y = Add(h, b)", weights)
    with pytest.raises(BuildError, match="refuses the DequantizeLinear node"):
        check_parse(saved(tmp_path / "m.onnx", model))


SILERO = {"input": (1, 576), "state": (2, 1, 128)}


def test_silero_is_built_once_its_branches_are_decided(shared_data: Path, tmp_path: Path) -> None:
    """As it was published the parser takes it and the builder does not: it holds ``If``."""
    path = shared_data / "silero-vad" / "silero_vad_16k_op15.onnx"
    profiles = {name: Profile(shape, shape, shape) for name, shape in SILERO.items()}
    with pytest.raises(BuildError, match=r"cannot build silero_vad_16k_op15 for sm 8\.9: "):
        build_engine(path, ["8.9"], profiles)
    graph = Graph.load(path)
    run_passes(graph, [FreezeInputs({"sr": 16000}), SetShapes(SILERO), RaiseOpset(17), FoldConstants(), RemoveNoOps()])
    graph.save(tmp_path / "silero.onnx")
    check_parse(tmp_path / "silero.onnx")
    assert len(build_engine(tmp_path / "silero.onnx", ["8.9"], {})) > graph.weight_bytes / 2


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(BuildError, match="TensorRT's parser refuses"):
        check_parse(tmp_path / "text.onnx")
    with pytest.raises(BuildError, match="TensorRT's parser refuses"):
        check_parse(tmp_path / "gone.onnx")
