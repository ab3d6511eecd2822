"""Processors: what a model folder brings to prepare its inputs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from edgebig.source import processors

pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat"]


def a_tokenizer(folder: Path) -> Path:
    from transformers import BertTokenizerFast

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=8).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder


def an_image_processor(folder: Path) -> Path:
    from transformers import ViTImageProcessor

    ViTImageProcessor(size={"height": 6, "width": 4}, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(
        folder
    )
    return folder


def test_a_tokenizer_makes_what_graphs_take(tmp_path: Path) -> None:
    found = processors.load(str(a_tokenizer(tmp_path / "m")), tmp_path / "out", None)
    assert found.picture is None and found.folder == tmp_path / "out"
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert found.text is not None
    sample = found.text("The cat sat")
    assert sample["input_ids"].tolist() == [[2, 5, 6, 7, 3]]
    assert sample["attention_mask"].tolist() == [[1] * 5]
    assert sample["token_type_ids"].tolist() == [[0] * 5]
    assert sample["position_ids"].tolist() == [[0, 1, 2, 3, 4]]
    assert {v.dtype for v in sample.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize(("asked", "tokens"), [(None, 8), (4, 4)])
def test_long_text_is_cut(tmp_path: Path, asked: int | None, tokens: int) -> None:
    found = processors.load(str(a_tokenizer(tmp_path / "m")), tmp_path / "out", asked)
    assert found.text is not None
    assert found.text("the cat sat on the mat " * 5)["input_ids"].shape == (1, tokens)


def test_short_text_is_padded_where_a_length_is_fixed(tmp_path: Path) -> None:
    folder = a_tokenizer(tmp_path / "m")
    found = processors.load(str(folder), tmp_path / "out", 6, pads=True)
    assert found.text is not None
    sample = found.text("The cat")
    assert sample["input_ids"].tolist() == [[2, 5, 6, 3, 0, 0]]
    assert sample["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0]]
    assert {v.shape for v in sample.values()} == {(1, 6)}
    assert found.text("the cat sat on the mat")["input_ids"].shape == (1, 6)


def test_a_tokenizer_without_padding_fills_up_all_the_same(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]").save_pretrained(tmp_path / "m")
    (tmp_path / "m/config.json").write_text(json.dumps({"model_type": "llama"}))
    found = processors.load(str(tmp_path / "m"), tmp_path / "out", 4, pads=True)
    assert found.text is not None
    sample = found.text("the cat")
    assert sample["input_ids"].shape == (1, 4) and sample["attention_mask"].sum() == 2
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text()).get("pad_token") is None


def test_an_image_processor_makes_float32_pictures(tmp_path: Path) -> None:
    found = processors.load(str(an_image_processor(tmp_path / "m")), tmp_path / "out", None)
    assert found.text is None and found.picture is not None
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
    Image.new("L", (20, 10), 255).save(tmp_path / "white.png")
    pixels = found.picture(tmp_path / "white.png")["pixel_values"]
    assert (pixels.shape, pixels.dtype) == ((1, 3, 6, 4), np.float32)
    np.testing.assert_allclose(pixels, (1 - 0.5) / 0.25, rtol=1e-6)


def test_a_folder_with_neither_brings_nothing(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    found = processors.load(str(tmp_path / "m"), tmp_path / "out", None)
    assert (found.folder, found.text, found.picture) == (None, None, None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("processor", "shapes"),
    [
        ({"size": {"height": 48, "width": 64}}, {"height": 48, "width": 64}),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
            {"height": 224, "width": 224},
        ),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": False},
            {"height": 256, "width": 256},
        ),
        ({"model_max_length": 8}, {}),
        ({"size": {}}, {}),
    ],
)
def test_the_pictures_size_is_the_processors(processor: dict[str, object], shapes: dict[str, int]) -> None:
    assert processors.picture_shapes([SimpleNamespace(**processor)], SimpleNamespace()) == shapes


def test_a_size_in_the_config_goes_first() -> None:
    found = processors.picture_shapes(
        [SimpleNamespace(size={"height": 48, "width": 64})], SimpleNamespace(image_size=32)
    )
    assert found == {}
