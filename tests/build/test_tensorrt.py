"""TensorRT-RTX: real engines, built with no GPU, and refusals that say what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from textnets import net, normal

from edgebig.build import BuildOptions, Profile, build_engine, check_parse, find_flavour, find_flavours, rtx_version
from edgebig.errors import BuildError, MissingExtra
from edgebig.graph import Graph
from edgebig.graph.passes import FoldConstants, FreezeInputs, RaiseOpset, RemoveNoOps, SetShapes, run_passes

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

BATCHES = {"x": Profile((1, 8), (4, 8), (16, 8))}


def built(graph: Path, capabilities: list[str], *sets: dict[str, Profile], **more: Any) -> bytes:
    rtx = find_flavour("tensorrt-rtx")
    return build_engine(graph, rtx, profiles=sets, capabilities=capabilities, **more).engine


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
    for module in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    assert find_flavours() == ()
    with pytest.raises(MissingExtra, match=r'edgebig\[rtx\] .*pip install "edgebig\[rtx\]"'):
        check_parse(mlp)
    with pytest.raises(MissingExtra):
        rtx_version()


@pytest.mark.parametrize("capabilities", [["8.9"], ["12.1"], ["8.6", "8.9"], ["8.0", "8.9", "12.0"]])
def test_engines_are_built_for_each_capability_and_for_several(mlp: Path, capabilities: list[str]) -> None:
    engine = built(mlp, capabilities, BATCHES)
    assert isinstance(engine, bytes)
    assert len(engine) > 4 * (8 * 16 + 16 + 16 * 4 + 4)


def test_an_engine_for_two_capabilities_is_another_one_and_holds_both(mlp: Path) -> None:
    ampere, ada, both = (built(mlp, c, BATCHES) for c in (["8.6"], ["8.9"], ["8.6", "8.9"]))
    assert len({ampere, ada, both}) == 3


def test_two_profiles_are_two_ranges_in_one_engine(mlp: Path) -> None:
    one = built(mlp, ["8.9"], BATCHES)
    two = built(mlp, ["8.9"], BATCHES, {"x": Profile((32, 8), (32, 8), (64, 8))})
    assert len(two) > 1.5 * len(one)
    with pytest.raises(
        BuildError, match=r"cannot build mlp with the profile x \(64, 8\) to \(16, 8\), best \(32, 8\): .*MIN<=OPT<=MAX"
    ):
        built(mlp, ["8.9"], BATCHES, {"x": Profile((64, 8), (32, 8), (16, 8))})


def test_the_node_that_the_builder_refuses_is_named(tmp_path: Path) -> None:
    model = tiny.mlp()
    for index, node in enumerate(model.graph.node):
        node.name = f"block{index}/{node.op_type}"
    with pytest.raises(
        BuildError, match=r"for sm 7\.5: .*'block\d/(Gemm|MatMul)'.* not supported.*: choose --precision fp16"
    ) as caught:
        built(saved(tmp_path / "named.onnx", model), ["7.5"], BATCHES)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    "options",
    [
        {"workspace_bytes": 1 << 26},
        {"optimization_level": 5},
        {"aux_streams": 0},
        {"version_compatible": True},
        {"weight_streaming": True},
        {"detailed_verbosity": False},
    ],
)
def test_the_builder_takes_each_option(mlp: Path, options: dict[str, Any]) -> None:
    assert len(built(mlp, ["8.9"], BATCHES, options=BuildOptions(**options))) > 4 * (8 * 16 + 16 + 16 * 4 + 4)


def test_rtx_passes_optimization_levels_over(mlp: Path) -> None:
    """Where that changes, docs/engines.md and the note of the build step are no longer true."""
    engines = {built(mlp, ["8.9"], BATCHES, options=BuildOptions(optimization_level=level)) for level in (0, 5)}
    assert engines == {built(mlp, ["8.9"], BATCHES)}


@pytest.mark.parametrize(
    ("options", "capabilities", "message"),
    [
        ({"hardware_compatible": "ampere+"}, ["8.9"], "has no hardware compatibility: name the compute capabilities"),
        ({"dla_core": 0}, ["8.9"], r"has no DLA: TensorRT up to 10\.7 .* compile for a target that has DLA cores"),
        (
            {"hardware_compatible": "same-capability"},
            ["8.9"],
            "'s engines load on every GPU of their compute capability",
        ),
        ({"refit": True}, ["8.6", "8.9"], "refits engines for one compute capability alone, found 2"),
    ],
)
def test_what_rtx_has_not_is_refused_before_the_build(
    mlp: Path, options: dict[str, Any], capabilities: list[str], message: str
) -> None:
    with pytest.raises(BuildError, match=rf"cannot build mlp: TensorRT-RTX .*{message}"):
        built(mlp, capabilities, BATCHES, options=BuildOptions(**options))


def test_an_interrupt_ends_the_build_and_is_raised(mlp: Path) -> None:
    seen: list[str] = []

    def interrupt(phase: str, done: int, steps: int) -> None:
        seen.append(phase)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(mlp, ["8.9"], BATCHES, progress=interrupt)
    assert seen
    assert built(mlp, ["8.9"], BATCHES)


def test_what_a_processor_cannot_do_is_told_in_the_builders_words(mlp: Path, tmp_path: Path) -> None:
    """Turing has matrix products of FP16, none of FP32."""
    with pytest.raises(BuildError, match=r"cannot build mlp for sm 7\.5: .*FP32 GEMM is not supported"):
        built(mlp, ["7.5"], BATCHES)
    half = net("float16[4,8] x", "float16[4,4] y", "k = Cast<to = 10>(w) y = MatMul(x, k)", {"w": normal(8, 4)})
    assert built(saved(tmp_path / "half.onnx", half), ["7.5"])


def test_progress_counts_the_steps_of_each_phase(mlp: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    built(mlp, ["8.9"], BATCHES, progress=lambda *step: seen.append(step))
    assert seen
    assert all(1 <= done <= steps for _, done, steps in seen)
    assert any(done == steps for _, done, steps in seen)


def test_dynamic_axes_need_their_profiles_and_use_them(mlp: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot build mlp for sm 8\.9: .*profile"):
        built(mlp, ["8.9"])
    with pytest.raises(BuildError, match="mlp"):
        built(mlp, ["8.9"], {"x": Profile((1, 7), (4, 7), (16, 7))})
    with pytest.raises(BuildError, match="mlp"):
        built(mlp, ["8.9"], {"x": Profile((4, 8), (2, 8), (1, 8))})


def test_a_capability_that_it_does_not_build_for_is_refused(mlp: Path) -> None:
    for capability in ("9.0", "10.0", "6.1"):
        with pytest.raises(
            BuildError, match=rf"builds no engine for compute capability {capability}: compile for a target"
        ):
            built(mlp, [capability], BATCHES)


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
    assert len(built(path, ["8.9"])) > 16 * 32


def test_fp8_for_a_processor_without_it_is_refused(tmp_path: Path) -> None:
    body = """xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
        wq = QuantizeLinear(w, s, z) wd = DequantizeLinear(wq, s, z) y = MatMul(xd, wd)"""
    model = net("float[4,16] x", "float[4,32] y", body, {"w": normal(16, 32), "s": np.float32(0.05)}, check=False)
    model.graph.initializer.append(onnx.helper.make_tensor("z", 17, [], b"\0", raw=True))
    with pytest.raises(BuildError, match=r"cannot build m for sm 8\.0: "):
        built(saved(tmp_path / "m.onnx", model), ["8.0"])


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
        built(path, ["8.9"], profiles)
    graph = Graph.load(path)
    run_passes(graph, [FreezeInputs({"sr": 16000}), SetShapes(SILERO), RaiseOpset(17), FoldConstants(), RemoveNoOps()])
    graph.save(tmp_path / "silero.onnx")
    check_parse(tmp_path / "silero.onnx")
    assert len(built(tmp_path / "silero.onnx", ["8.9"])) > graph.weight_bytes / 2


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(BuildError, match="TensorRT's parser refuses"):
        check_parse(tmp_path / "text.onnx")
    with pytest.raises(BuildError, match="TensorRT's parser refuses"):
        check_parse(tmp_path / "gone.onnx")
