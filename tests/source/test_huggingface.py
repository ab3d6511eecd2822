"""export_huggingface: thirteen architectures with random weights, each graph equal to PyTorch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textnets import Array, normal, run

from edgebig.errors import ExportMismatch, SourceError
from edgebig.source import Source, export_huggingface

torch = pytest.importorskip("torch")
pytest.importorskip("optimum.exporters.onnx")

from source import tiny_models  # noqa: E402

SEQ2SEQ = ["encoder_model", "decoder_model", "decoder_with_past_model"]
EXPECTED: dict[str, tuple[str, list[str]]] = {
    "bert": ("text-classification", ["model"]),
    "vit": ("image-classification", ["model"]),
    "resnet": ("image-classification", ["model"]),
    "segformer": ("image-segmentation", ["model"]),
    "yolos": ("object-detection", ["model"]),
    "detr": ("object-detection", ["model"]),
    "wav2vec2": ("automatic-speech-recognition", ["model"]),
    "whisper": ("automatic-speech-recognition-with-past", SEQ2SEQ),
    "t5": ("text2text-generation-with-past", SEQ2SEQ),
    "marian": ("text2text-generation-with-past", SEQ2SEQ),
    "llama": ("text-generation-with-past", ["model"]),
    "qwen2": ("text-generation-with-past", ["model"]),
    "qwen3": ("text-generation-with-past", ["model"]),
}
PINNED = {
    "vit": {"pixel_values": ("batch_size", 3, 32, 32)},
    "yolos": {"pixel_values": ("batch_size", 3, 64, 96)},
    "whisper": {"input_features": ("batch_size", 16, 3000)},
}
Export = Callable[[str], tuple[Path, Source]]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports the tiny model of a name, once."""
    done: dict[str, tuple[Path, Source]] = {}

    def once(name: str) -> tuple[Path, Source]:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            model = tiny_models.save(name, folder / "saved")
            done[name] = model, export_huggingface(str(model), folder / "graphs", None, 18, 1e-3)
        return done[name]

    return once


@pytest.mark.parametrize("name", tiny_models.MAKERS)
def test_every_architecture_is_exported_and_equals_pytorch(name: str, export: Export) -> None:
    model, source = export(name)
    task, parts = EXPECTED[name]
    assert (source.kind, source.name, source.task) == ("huggingface", model.name, task)
    assert [p.name for p in source.parts] == parts
    assert source.notes[0] == f"task {task}"
    assert len(source.notes) == 1 + len(parts)
    for part, note in zip(source.parts, source.notes[1:], strict=True):
        match = re.fullmatch(rf"{part.name}: (\d+) outputs equal the original's within (\S+)", note)
        assert match is not None, note
        assert int(match[1]) == len(part.graph.outputs)
        assert float(match[2]) < 1e-4

        (example,) = part.examples
        assert set(example) == {s.name for s in part.graph.inputs}
        for spec in part.graph.inputs:
            value = example[spec.name]
            assert (str(value.dtype), value.ndim) == (spec.dtype, len(spec.shape))
            fixed = part.fixed.get(spec.name, spec.shape)
            for size, dim in zip(value.shape, fixed, strict=True):
                assert size == dim if isinstance(dim, int) else True
        assert all(0 <= low <= best <= high for low, best, high in part.axes.values())
        assert part.axes["batch_size"] == (1, 1, 8)
    if name in PINNED:
        assert dict(source.parts[0].fixed) == PINNED[name]


def forward(model: Path, **inputs: Array) -> Any:
    """What transformers computes, loaded anew by the class in the config."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(model)
    module = getattr(transformers, config.architectures[0]).from_pretrained(model).eval()
    with torch.inference_mode():
        return module(**{k: torch.as_tensor(v) for k, v in inputs.items()})


@pytest.mark.parametrize("batch", [1, 3])
def test_berts_numbers_on_other_text_of_other_length(export: Export, batch: int) -> None:
    model, source = export("bert")
    rng = np.random.default_rng(batch)
    inputs = {"input_ids": rng.integers(0, 120, (batch, 23)), "attention_mask": np.ones((batch, 23), np.int64)}
    inputs["attention_mask"][0, 15:] = 0
    inputs["token_type_ids"] = np.zeros((batch, 23), np.int64)
    found = run(source.parts[0].original, inputs)["logits"]
    np.testing.assert_allclose(found, forward(model, **inputs).logits, rtol=1e-4, atol=1e-5)
    assert source.parts[0].axes["sequence_length"] == (1, 64, 64)


def test_vits_and_resnets_numbers_on_other_pictures(export: Export) -> None:
    for name, size in (("vit", 32), ("resnet", 64)):
        model, source = export(name)
        pictures = normal(2, 3, size, size, seed=4)
        found = run(source.parts[0].original, {"pixel_values": pictures})["logits"]
        np.testing.assert_allclose(found, forward(model, pixel_values=pictures).logits, rtol=1e-3, atol=1e-5)


def test_wav2vec2s_numbers_on_other_sound(export: Export) -> None:
    model, source = export("wav2vec2")
    sound = normal(1, 2400, seed=3)
    found = run(source.parts[0].original, {"input_values": sound})["logits"]
    np.testing.assert_allclose(found, forward(model, input_values=sound).logits, rtol=1e-3, atol=1e-5)
    assert source.parts[0].axes["sequence_length"] == (1600, 16000, 320000)


def test_llamas_cache_continues_a_text(export: Export) -> None:
    """Six tokens at once equal four tokens from an empty cache and then two with the cache of those."""
    model, source = export("llama")
    (part,) = source.parts
    ids = np.random.default_rng(0).integers(0, 120, (1, 6))
    expected = forward(model, input_ids=ids).logits.numpy()
    caches = [s.name for s in part.graph.inputs if s.name.startswith("past_key_values")]
    assert len(caches) == 4
    past = {n: np.zeros((1, 2, 0, 8), np.float32) for n in caches}
    logits = []
    for start, end in ((0, 4), (4, 6)):
        feeds: dict[str, Array] = {"input_ids": ids[:, start:end], "attention_mask": np.ones((1, end), np.int64)}
        feeds["position_ids"] = np.arange(start, end)[None]
        feeds = {k: v for k, v in {**feeds, **past}.items() if k in {s.name for s in part.graph.inputs}}
        outputs = run(part.original, feeds)
        past = {n: outputs[n.replace("past_key_values", "present")] for n in caches}
        logits.append(outputs["logits"])
    np.testing.assert_allclose(np.concatenate(logits, 1), expected, rtol=1e-3, atol=1e-5)


def test_t5s_encoder_and_decoder_work_together(export: Export) -> None:
    model, source = export("t5")
    encoder, decoder, _ = source.parts
    ids, mask = np.random.default_rng(1).integers(2, 120, (2, 9)), np.ones((2, 9), np.int64)
    written = np.array([[0, 5, 7], [0, 8, 3]])
    hidden = run(encoder.original, {"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    feeds = {"input_ids": written, "encoder_hidden_states": hidden, "encoder_attention_mask": mask}
    found = run(decoder.original, feeds)["logits"]
    expected = forward(model, input_ids=ids, attention_mask=mask, decoder_input_ids=written).logits
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_a_task_can_be_named_and_others_are_refused_with_those_there_are(tmp_path: Path, export: Export) -> None:
    model, _ = export("bert")
    source = export_huggingface(str(model), tmp_path / "features", "feature-extraction", 18, 1e-3)
    assert source.task == "feature-extraction"
    assert [s.name for s in source.parts[0].graph.outputs] == ["last_hidden_state"]
    with pytest.raises(
        SourceError, match=r"--task image-classification: bert has no such task: choose one of .*fill-mask"
    ):
        export_huggingface(str(model), tmp_path / "no", "image-classification", 18, 1e-3)
    with pytest.raises(SourceError, match=r"--task nonsense: bert has no such task"):
        export_huggingface(str(model), tmp_path / "no", "nonsense", 18, 1e-3)


def test_a_tolerance_that_the_export_misses_stops_it(tmp_path: Path, export: Export) -> None:
    model, _ = export("bert")
    with pytest.raises(ExportMismatch, match=r"export of model: the output 'logits' differs .*allowed are 1e-12"):
        export_huggingface(str(model), tmp_path, None, 18, 1e-12)


def test_folders_that_hold_no_model_are_refused(tmp_path: Path, export: Export) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty is not a Hugging Face model folder: it has no config.json"):
        export_huggingface(str(tmp_path / "empty"), tmp_path / "out", None, 18, 1e-3)
    with pytest.raises(SourceError, match="no such model: nobody/nothing is neither a file nor a folder here"):
        export_huggingface("nobody/nothing", tmp_path / "out", None, 18, 1e-3)

    model, _ = export("bert")
    for name, content in (("text", "{not json"), ("unknown", '{"model_type": "no_such_model"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
        with pytest.raises(SourceError, match=f"{name} is not a Hugging Face model folder"):
            export_huggingface(str(tmp_path / name), tmp_path / "out", None, 18, 1e-3)

    shutil.copytree(model, tmp_path / "weightless")
    (tmp_path / "weightless" / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="export of weightless for text-classification failed: "):
        export_huggingface(str(tmp_path / "weightless"), tmp_path / "out", None, 18, 1e-3)

    shutil.copytree(model, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SourceError, match="export of cut for text-classification failed: ") as caught:
        export_huggingface(str(tmp_path / "cut"), tmp_path / "out", None, 18, 1e-3)
    assert "\n" not in str(caught.value)


def test_a_config_without_architecture_asks_for_the_task(tmp_path: Path, export: Export) -> None:
    model, _ = export("bert")
    shutil.copytree(model, tmp_path / "bare")
    config = tmp_path / "bare" / "config.json"
    config.write_text(re.sub(r'"architectures": \[[^]]*\],', "", config.read_text()))
    with pytest.raises(SourceError, match="its config names no known task: give --task, one of .*text-classification"):
        export_huggingface(str(tmp_path / "bare"), tmp_path / "out", None, 18, 1e-3)
