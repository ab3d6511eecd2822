"""Bundles as repositories of Triton: the configuration as Triton reads it, and files that give the answers.

This folder is not called tests/triton: the tests are on sys.path, and torch and transformers look for a package triton.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from tiny import L4_TARGET, add_one, mlp, two_inputs, write_bundle
from triton_graphs import golden, graph, refit
from triton_proto import model_config_pb2, parse

from edgebig.bundle import Bundle
from edgebig.errors import BundleError, OutputError, UsageError
from edgebig.triton import triton_models, write_repository
from edgebig.triton.model import TritonModel

KINDS = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "bool": "BOOL"}


def export(bundle: Bundle, out: Path, **options: Any) -> tuple[list[TritonModel], list[Any]]:
    models = triton_models(bundle, **options)
    folders = write_repository(bundle, models, out)
    return models, [parse((folder / "config.pbtxt").read_text(encoding="utf-8")) for folder in folders]


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def answers(folder: Path, config: Any) -> dict[str, np.ndarray[Any, Any]]:
    """What the exported graph says to the first warm-up request, put together as Triton does it."""
    main = config.default_model_filename or "model.onnx"
    session = ort.InferenceSession(str(folder / "1" / main), providers=["CPUExecutionProvider"])
    request = config.model_warmup[0]
    types = model_config_pb2().DataType
    feeds = {}
    for tensor in config.input:
        sent = request.inputs[tensor.name]
        assert sent.data_type == tensor.data_type
        dtype = next(d for d, kind in KINDS.items() if types.Value(f"TYPE_{kind}") == sent.data_type)
        row = np.fromfile(folder / "warmup" / sent.input_data_file, dtype).reshape(sent.dims)
        feeds[tensor.name] = np.repeat(row[None], request.batch_size, 0) if config.max_batch_size else row
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


@pytest.mark.parametrize("external", [False, True])
def test_a_graph_with_a_batch(tmp_path: Path, external: bool) -> None:
    arrays = golden(mlp(), {"x": (2, 8)})
    bundle = write_bundle(tmp_path / "b", {"model": mlp()}, golden=arrays, external=external)
    (model,), (config,) = export(bundle, tmp_path / "repo")
    assert (config.name, config.platform, config.max_batch_size) == ("tiny", "onnxruntime_onnx", 8)
    types = model_config_pb2()
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("x", types.TYPE_FP32, [8])]
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [("y", types.TYPE_FP32, [4])]
    assert config.HasField("dynamic_batching") and not config.HasField("sequence_batching")
    assert [(g.count, g.kind) for g in config.instance_group] == [(1, types.ModelInstanceGroup.KIND_CPU)]
    assert not config.HasField("optimization")
    assert [(w.name, w.batch_size) for w in config.model_warmup] == [("golden-1", 1), ("golden-8", 8)]
    data = ["1/model.onnx.data"] if external else []
    assert files_below(tmp_path / "repo/tiny") == ["1/model.onnx", *data, "config.pbtxt", "warmup/0.bin"]
    found = answers(tmp_path / "repo/tiny", config)["y"]
    np.testing.assert_allclose(found, arrays["out.y.0"][:1], rtol=1e-5)
    assert model.notes == ()
    assert {p.name for p in tmp_path.iterdir()} == {"b", "repo"}


def test_external_data_keeps_the_name_that_the_graph_gives_it(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"encoder": mlp(), "decoder": mlp(1)}, external=True)
    models, configs = export(bundle, tmp_path / "repo", name="t5")
    assert [m.name for m in models] == ["t5_encoder", "t5_decoder"] == [c.name for c in configs]
    assert [c.default_model_filename for c in configs] == ["encoder.onnx", "decoder.onnx"]
    for name in ("encoder", "decoder"):
        assert files_below(tmp_path / f"repo/t5_{name}/1") == [f"{name}.onnx", f"{name}.onnx.data"]
        ort.InferenceSession(str(tmp_path / f"repo/t5_{name}/1/{name}.onnx"), providers=["CPUExecutionProvider"])
    assert "no warm-up: the bundle keeps no golden inputs" in models[0].notes[0]


def test_two_inputs(tmp_path: Path) -> None:
    arrays = golden(two_inputs(), {"left": (3, 2), "right": (3, 2)})
    bundle = write_bundle(tmp_path / "b", {"model": two_inputs()}, golden=arrays)
    _, (config,) = export(bundle, tmp_path / "repo")
    found = answers(tmp_path / "repo/tiny", config)
    np.testing.assert_array_equal(found["sum"], arrays["out.sum.0"][:1])
    np.testing.assert_array_equal(found["product"], arrays["out.product.0"][:1])


@pytest.mark.parametrize(
    ("shape", "largest", "dims", "reshaped"),
    [
        (["batch", 3, "h"], 8, [3, -1], False),
        (["N"], 8, [1], True),
        ([1, 3], 0, [1, 3], False),
        ([None, 3], 0, [-1, 3], False),
        (["sequence", 3], 0, [-1, 3], False),
    ],
)
def test_dims_and_batches(tmp_path: Path, shape: list[Any], largest: int, dims: list[int], reshaped: bool) -> None:
    sizes = [2 if not isinstance(d, int) else d for d in shape]
    model = graph({"x": shape}, {"y": shape})
    bundle = write_bundle(tmp_path / "b", {"model": model}, golden=golden(model, {"x": sizes}))
    _, (config,) = export(bundle, tmp_path / "repo")
    assert config.max_batch_size == largest
    for tensor in (*config.input, *config.output):
        assert list(tensor.dims) == dims
        assert tensor.HasField("reshape") is reshaped
        assert not tensor.reshape.shape
    assert config.HasField("dynamic_batching") is (largest > 1)
    warm = config.model_warmup[0].inputs["x"]
    count = int(np.prod(warm.dims))
    assert (tmp_path / "repo/tiny/warmup" / warm.input_data_file).stat().st_size == 4 * count


def test_the_batch_must_be_the_first_axis_of_all(tmp_path: Path) -> None:
    model = graph({"x": ["batch", 3], "m": [1, 4]}, {"y": ["batch", 3], "z": [1, 4]})
    bundle = write_bundle(tmp_path / "b", {"model": model})
    assert triton_models(bundle)[0].max_batch == 0
    with pytest.raises(UsageError, match="--max-batch 4: the first axis of each input and output must be the batch"):
        triton_models(bundle, max_batch=4)


def test_the_compiled_shapes_bound_the_batch(tmp_path: Path) -> None:
    plain = write_bundle(tmp_path / "b", {"model": mlp()})
    shapes = {"x": {"min": [1, 8], "opt": [4, 8], "max": [16, 8]}}
    bundle = refit(plain, profiles=shapes)
    assert triton_models(bundle)[0].max_batch == 16
    assert triton_models(bundle, max_batch=4)[0].max_batch == 4
    with pytest.raises(UsageError, match="--max-batch 17: the shapes that it was compiled for go to a batch of 16"):
        triton_models(bundle, max_batch=17)
    least = refit(plain, profiles={"x": {**shapes["x"], "min": [2, 8]}})
    (model,) = triton_models(least)
    assert model.max_batch == 0 and "batches of 2 or more" in model.notes[0]


def test_an_engine_of_tensorrt(tmp_path: Path) -> None:
    target = {"name": "h100", "engine": "on-device", "compute_capability": "9.0"}
    arrays = golden(mlp(), {"x": (1, 8)})
    bundle = write_bundle(
        tmp_path / "b", {"model": mlp()}, target=target, engines=[("tensorrt", "10.16.0", "9.0")], golden=arrays
    )
    one = {"x": {"min": [1, 8], "opt": [1, 8], "max": [1, 8]}}
    many = {"x": {"min": [1, 8], "opt": [8, 8], "max": [32, 8]}}
    bundle = refit(bundle, engines=(replace(bundle.part().engines[0], profiles=(many, many)),))
    (model,), (config,) = export(bundle, tmp_path / "repo", instances=2)
    assert (config.platform, config.max_batch_size, config.default_model_filename) == ("tensorrt_plan", 32, "")
    kind = model_config_pb2().ModelInstanceGroup.KIND_GPU
    assert [(g.count, g.kind, list(g.profile)) for g in config.instance_group] == [(2, kind, ["0", "1"])]
    assert files_below(tmp_path / "repo/tiny") == ["1/model.plan", "config.pbtxt", "warmup/0.bin"]
    engine = bundle.file(bundle.part().engines[0].path).read_bytes()
    assert (tmp_path / "repo/tiny/1/model.plan").read_bytes() == engine
    assert "engine of TensorRT 10.16.0 for compute capability 9.0" in model.notes[0]
    # the portable graph instead, and the narrower of two profiles
    (other,) = triton_models(bundle, backend="onnxruntime")
    assert other.platform == "onnxruntime_onnx" and other.files == {"model.onnx": "graphs/model.onnx"}
    narrow = refit(bundle, engines=(replace(bundle.part().engines[0], profiles=(one, many)),))
    assert triton_models(narrow)[0].max_batch == 1
    later = refit(bundle, engines=(replace(bundle.part().engines[0], version_compatible=True),))
    assert "Triton takes lean runtimes out of engines alone, and it holds none" in triton_models(later)[0].notes[1]
    stripped = refit(bundle, engines=(replace(bundle.part().engines[0], stripped=True),))
    (graph_instead,) = triton_models(stripped)
    assert graph_instead.platform == "onnxruntime_onnx" and "without its weights" in graph_instead.notes[0]
    with pytest.raises(UsageError, match=r"has none with its weights \(engines: tensorrt\)"):
        triton_models(stripped, backend="tensorrt")


def test_without_an_engine_of_tensorrt(tmp_path: Path) -> None:
    rtx = write_bundle(
        tmp_path / "b", {"model": mlp()}, target=L4_TARGET, quantized=True, engines=[("tensorrt-rtx", "1.7", "8.9")]
    )
    (model,), (config,) = export(rtx, tmp_path / "repo")
    assert config.platform == "onnxruntime_onnx"
    assert config.optimization.graph.level == 2  # none: see docs/bundle-format.md
    assert model.notes[0].startswith("model: Triton has no backend for TensorRT-RTX")
    with pytest.raises(
        UsageError, match=r"the part model has none with its weights \(engines: tensorrt-rtx\): run 'edgebig finish'"
    ):
        triton_models(rtx, backend="tensorrt")
    bare = write_bundle(tmp_path / "c", {"model": mlp()}, target=L4_TARGET)
    assert "'edgebig finish' in Triton's own container" in triton_models(bare)[0].notes[0]


def test_state_stays_in_triton(tmp_path: Path) -> None:
    model = graph({"x": [1, 5], "state": [2, 1, 4]}, {"y": [1, 5], "stateN": [2, 1, 4]})
    arrays = golden(model, {"x": (1, 5), "state": (2, 1, 4)})
    bundle = write_bundle(tmp_path / "b", {"model": model}, golden=arrays)
    (made,), (config,) = export(bundle, tmp_path / "repo")
    assert [i.name for i in config.input] == ["x"] and [o.name for o in config.output] == ["y"]
    (state,) = config.sequence_batching.state
    assert (state.input_name, state.output_name, list(state.dims)) == ("state", "stateN", [2, 1, 4])
    assert state.data_type == model_config_pb2().TYPE_FP32
    (start,) = state.initial_state
    assert start.zero_data and list(start.dims) == [2, 1, 4] and start.name
    assert config.sequence_batching.oldest.max_candidate_sequences == 64
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching") and not config.model_warmup
    assert "state that Triton keeps for each sequence" in made.notes[0]


def test_state_with_a_batch_and_one_of_the_recipe(tmp_path: Path) -> None:
    model = graph({"x": ["batch", 5], "memory": ["batch", 4]}, {"y": ["batch", 5], "kept": ["batch", 4]})
    bundle = write_bundle(tmp_path / "b", {"model": model})
    assert "sequence_batching" not in triton_models(bundle)[0].config
    _, (config,) = export(refit(bundle, recipe={"state": {"memory": "kept"}}), tmp_path / "repo")
    (state,) = config.sequence_batching.state
    assert config.max_batch_size == 8 and list(state.dims) == [4] == list(state.initial_state[0].dims)


def test_state_of_no_fixed_size_stays_an_input(tmp_path: Path) -> None:
    shape = ["batch", 2, "past", 4]
    model = graph({"past_key_values.0.key": shape}, {"present.0.key": shape})
    (made,) = triton_models(write_bundle(tmp_path / "b", {"model": model}))
    assert [i["name"] for i in made.config["input"]] == ["past_key_values.0.key"]
    assert "a state of no fixed size" in made.notes[0]


def test_labels_go_with_the_output_that_has_as_many(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"model": mlp()})
    _, (config,) = export(bundle, tmp_path / "repo", labels=["cat", "dog", "ox", "hen"])
    assert config.output[0].label_filename == "y.labels.txt"
    assert (tmp_path / "repo/tiny/y.labels.txt").read_text() == "cat\ndog\nox\nhen\n"
    assert "label_filename" not in triton_models(bundle, labels=["cat"])[0].config["output"][0]


def test_what_triton_cannot_hold_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"model": mlp()})
    for name in ("../x", "x\n"):
        with pytest.raises(UsageError) as caught:
            triton_models(bundle, name=name)
        assert str(caught.value).startswith("a model's name holds letters, digits, '_', '.' and '-', found ")
    scalar = write_bundle(tmp_path / "s", {"model": graph({"rate": []}, {"y": []})})
    with pytest.raises(BundleError, match="no scalar, and rate is one: compile the model with --freeze rate=VALUE"):
        triton_models(scalar)
    spec = replace(bundle.part().inputs[0], dtype="float8_e4m3fn")
    with pytest.raises(BundleError, match="Triton has no type for x: float8_e4m3fn: its types are bool, "):
        triton_models(refit(bundle, inputs=(spec,)))
    assert triton_models(refit(bundle, name="my model (v2)"))[0].name == "my_model_v2_"


# What is written, and what is left when it fails


def test_models_are_merged_by_name(tmp_path: Path) -> None:
    first, second = (write_bundle(tmp_path / n, {"model": m}) for n, m in (("a", mlp()), ("b", add_one())))
    write_repository(first, triton_models(first, name="one"), tmp_path / "repo")
    write_repository(second, triton_models(second, name="two"), tmp_path / "repo")
    kept = files_below(tmp_path / "repo")
    assert kept == ["one/1/model.onnx", "one/config.pbtxt", "two/1/model.onnx", "two/config.pbtxt"]
    models = triton_models(second, name="one")
    with pytest.raises(OutputError, match="one has a version 1: take another --version, or replace the model with --f"):
        write_repository(second, models, tmp_path / "repo")
    with pytest.raises(OutputError, match="one has another configuration: replace the model with --force"):
        write_repository(second, models, tmp_path / "repo", version=2)
    assert files_below(tmp_path / "repo") == kept
    write_repository(first, triton_models(first, name="one"), tmp_path / "repo", version=2)
    assert files_below(tmp_path / "repo/one") == ["1/model.onnx", "2/model.onnx", "config.pbtxt"]
    write_repository(second, models, tmp_path / "repo", version=3, force=True)
    assert files_below(tmp_path / "repo/one") == ["3/model.onnx", "config.pbtxt"]
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "repo"}


def test_what_is_no_model_is_never_replaced(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"model": mlp()})
    (tmp_path / "repo/tiny").mkdir(parents=True)
    (tmp_path / "repo/tiny/photo.jpg").write_bytes(b"x")
    with pytest.raises(OutputError, match="tiny is no model of Triton: remove it by hand"):
        write_repository(bundle, triton_models(bundle), tmp_path / "repo", force=True)
    assert files_below(tmp_path / "repo") == ["tiny/photo.jpg"]
    (tmp_path / "file").write_bytes(b"")
    for where, message in (("file", "it is no folder"), ("no/repo", "does not exist")):
        with pytest.raises(OutputError, match=message):
            write_repository(bundle, triton_models(bundle), tmp_path / where)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_damaged_file_leaves_everything_as_it_was(tmp_path: Path, fresh: bool) -> None:
    bundle = write_bundle(tmp_path / "b", {"encoder": mlp(), "decoder": mlp(1)})
    if not fresh:
        write_repository(bundle, triton_models(bundle), tmp_path / "repo")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "repo").rglob("*")}
    (tmp_path / "b/graphs/decoder.onnx").write_bytes(b"other")
    damaged = Bundle.open(tmp_path / "b")
    with pytest.raises(BundleError, match=r"graphs/decoder\.onnx is not the file of the manifest"):
        write_repository(damaged, triton_models(damaged), tmp_path / "repo", force=True)
    assert (tmp_path / "repo").exists() is not fresh
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "repo").rglob("*")} == before
    assert {p.name for p in tmp_path.iterdir()} == {"b"} | (set() if fresh else {"repo"})


@pytest.mark.parametrize("fresh", [True, False])
def test_if_the_second_model_cannot_be_placed_the_first_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    bundle = write_bundle(tmp_path / "b", {"encoder": mlp(), "decoder": mlp(1)})
    if not fresh:
        write_repository(bundle, triton_models(bundle), tmp_path / "repo")
        (tmp_path / "repo/tiny_encoder/1/model.onnx").write_bytes(b"the old one")
    rename = os.rename

    def failing(source: Any, goal: Any) -> None:
        if Path(goal) == tmp_path / "repo/tiny_decoder" and "old" not in Path(source).name:
            raise KeyboardInterrupt
        rename(source, goal)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        write_repository(bundle, triton_models(bundle), tmp_path / "repo", force=True)
    assert {p.name for p in tmp_path.iterdir()} == {"b"} | (set() if fresh else {"repo"})
    if not fresh:
        assert (tmp_path / "repo/tiny_encoder/1/model.onnx").read_bytes() == b"the old one"
        assert len(files_below(tmp_path / "repo")) == 4
