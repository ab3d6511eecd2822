"""Formats of weights alone: which target has them as precisions and for layers, and why others lack them."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
from nets import Graph, net, node, normal

import edgebig
from edgebig.errors import PrecisionError
from edgebig.quantize import PlanFile, check_precision, make_plan
from edgebig.quantize.formats import INT8, NVFP4
from edgebig.quantize.rules import available_precisions
from edgebig.recipe import Recipe
from edgebig.target import Target


def mlp() -> Graph:
    """x Nx64 -> h Nx96 -> y Nx32."""
    return net(
        [node("MatMul", "x w1", "h"), node("Relu", "h", "r"), node("Gemm", "r w2", "y", transB=1)],
        {"x": ["batch", 64]},
        ["y"],
        {"w1": normal(64, 96, seed=1, scale=0.1), "w2": normal(32, 96, seed=2, scale=0.1)},
    )


def formats(target: str, precision: str, layers: dict[str, str] | None = None) -> tuple[dict[str, str], dict[str, str]]:
    graph = mlp()
    plan = make_plan(graph, None, Target.load(target), Recipe(), precision, layers)
    return PlanFile.of(graph, plan, target, precision).formats(), plan.skipped


def test_whole_precisions_by_target() -> None:
    assert formats("rtx-5090", "nvfp4")[0] == {"h": "nvfp4", "y": "nvfp4"}
    for target in ("cpu", "l4", "t4", "agx-orin-64gb"):
        assert formats(target, "int8-weights")[0] == {"h": "int8-weights", "y": "int8-weights"}
    assert available_precisions(Target.load("cpu")) == ("fp32", "int8", "int8-weights")
    assert available_precisions(Target.load("rtx-5090"))[-3:] == ("int4", "int8-weights", "nvfp4")
    assert "nvfp4" not in available_precisions(Target.load("h100"))


@pytest.mark.parametrize(
    ("target", "precision", "why"),
    [
        ("l4", "nvfp4", "needs compute capability 10.0 or newer.* 8.9: choose one of fp32"),
        ("cpu", "nvfp4", "ONNX Runtime has no CPU kernel that dequantizes FLOAT4E2M1"),
        ("rtx-5090", "mxfp8", "parser takes no such constant.*int8-weights, nvfp4"),
        ("cpu", "mxfp8", "parser takes no such constant"),
    ],
)
def test_a_whole_precision_that_is_not_to_be_had_is_an_error_with_the_reason(target, precision, why) -> None:
    with pytest.raises(PrecisionError, match=f"^--precision {precision} for {target} .*{why}"):
        check_precision(Target.load(target), precision)


def test_a_layer_stays_float_with_the_reason() -> None:
    found, skipped = formats("rtx-5090", "nvfp4", {"h": "mxfp8"})
    assert found == {"h": "float", "y": "nvfp4"} and "FLOAT8E8M0" in skipped["h"]
    found, skipped = formats("l4", "int8-weights", {"h": "nvfp4"})
    assert found == {"h": "float", "y": "int8-weights"} and "8.9" in skipped["h"]
    assert formats("rtx-5090", "int4", {"h": "nvfp4"})[0] == {"h": "nvfp4", "y": "int4"}


@pytest.mark.parametrize(
    ("target", "precision", "least", "largest_share"),
    [
        ("rtx-5090", "nvfp4", 0.98, 0.2),
        ("b200", "nvfp4", 0.98, 0.2),
        ("l4", "int8-weights", 0.9995, 0.32),
        ("cpu", "int8-weights", 0.9995, 0.32),
    ],
)
def test_compiled_and_compared_with_the_original(
    target: str, precision: str, least: float, largest_share: float, tmp_path: Path
) -> None:
    if target != "cpu":
        pytest.importorskip("tensorrt_rtx_bindings")
    graph = mlp()
    whole = graph.weight_bytes
    graph.save(tmp_path / "mlp.onnx")
    bundle = edgebig.compile(tmp_path / "mlp.onnx", out=tmp_path / "b", target=target, precision=precision)
    part = bundle.part(None)
    assert part.quantized and part.similarity["y"]["cosine"] > least
    stored = onnx.load(bundle.path / part.graph)
    held = sum(len(w.raw_data) for w in stored.graph.initializer)
    assert held < largest_share * whole
    plan = PlanFile.load(bundle.path / "evidence" / "model.plan.json")
    assert plan.formats() == {"h": precision, "y": precision}
    again = edgebig.compile(
        tmp_path / "mlp.onnx",
        out=tmp_path / "again",
        target=target,
        recipe=Recipe(plan=str(bundle.path / "evidence" / "model.plan.json")),
    )
    assert again.manifest.precision == precision
    assert (again.path / part.graph).read_bytes() == (bundle.path / part.graph).read_bytes()


def test_formats_are_told_apart_by_their_weights() -> None:
    plan = make_plan(mlp(), None, Target.load("rtx-5090"), Recipe(), "nvfp4", {"h": "int8-weights"})
    assert {w.node: w.format for w in plan.weights} == {"h": INT8, "y": NVFP4}


def test_a_cpu_multiplies_by_the_weights_as_they_are_and_stores_embeddings_in_int8(tmp_path: Path) -> None:
    graph = net(
        [node("Gather", "table ids", "rows"), node("MatMul", "rows w", "y")],
        {"ids": ["n", 5]},
        ["y"],
        {"table": normal(2048, 64), "w": normal(64, 64, seed=1, scale=0.2)},
        types={"ids": "int64"},
    )
    graph.save(tmp_path / "m.onnx")
    bundle = edgebig.compile(tmp_path / "m.onnx", out=tmp_path / "b", precision="int8-weights")
    part = bundle.part(None)
    assert part.similarity["y"]["cosine"] > 0.999
    stored = onnx.load(bundle.path / part.graph)
    kernels = [n.op_type for n in stored.graph.node]
    fuses = tuple(map(int, onnxruntime.__version__.split(".")[:2])) > (1, 23)  # which dequantizes at each run
    assert (kernels.count("MatMulNBits"), kernels.count("DequantizeLinear")) == ((1, 0) if fuses else (0, 1))
    assert PlanFile.load(bundle.path / "evidence" / "model.plan.json").formats() == dict.fromkeys(
        ("rows", "y"), "int8-weights"
    )
    assert (bundle.path / part.graph).stat().st_size < 0.35 * graph.weight_bytes
    # with an embedding kept by name nothing of it is stored
    kept = make_plan(graph, None, Target.load("cpu"), Recipe(keep_float=("rows",)), "int8-weights")
    assert kept.embeddings == [] and kept.skipped["rows"] == "kept in float by the recipe (rows)"
