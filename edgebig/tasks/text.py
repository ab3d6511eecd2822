"""Text to token tensors, and token vectors to search results. Needs NumPy and ``tokenizers`` (``edgebig[text]``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebig.errors import InputError, MissingExtra

_NO_LIMIT = 1_000_000  # Hugging Face writes 10**30 where a tokenizer has no limit


class Tokenizer:
    """A model's own tokenizer, read from its ``tokenizer.json``.

    ``tokenizer_config.json`` beside it, where there is one, gives the longest sequence, the padding
    token and the sides of padding and truncation. Truncation and padding that ``tokenizer.json``
    itself holds are not used, as in transformers. One object serves one thread.

    Attributes:
        max_length: the longest sequence that the model takes, in tokens, or ``None``.
    """

    def __init__(self, path: str | Path) -> None:
        """Reads the tokenizer.

        Args:
            path: the folder that holds ``tokenizer.json``, or that file.

        Raises:
            InputError: there is no such file, or it is damaged.
            MissingExtra: ``tokenizers`` is not installed.
        """
        try:
            import tokenizers  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            raise MissingExtra("text", "tokenizers") from error
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise InputError(f"there is no tokenizer at {file}: save the model's fast tokenizer there (tokenizer.json)")
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"cannot read the tokenizer {file}: {error}") from error
        config = _config(file.with_name("tokenizer_config.json"))
        limit = config.get("model_max_length")
        self.max_length: int | None = int(limit) if isinstance(limit, int | float) and limit < _NO_LIMIT else None
        self._truncation_side = str(config.get("truncation_side", "right"))
        self._pads_left = config.get("padding_side", (self._tokenizer.padding or {}).get("direction")) == "left"
        self._pad = self._padding_token(config)
        self._tokenizer.no_padding()

    def __call__(
        self, texts: str | Sequence[str], max_length: int | None = None, pad_to: int | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """The model's inputs for a batch of texts; a single text is a batch of one.

        Args:
            texts: the texts.
            max_length: the longest sequence in tokens, special tokens included; longer ones are cut.
                Absent: ``pad_to``, or what the tokenizer itself allows.
            pad_to: the length of every row; absent, that of the longest text.

        Returns:
            ``input_ids``, ``attention_mask`` and ``token_type_ids``, each int64 ``[N, L]``.

        Raises:
            InputError: no texts, ``max_length`` too small or beyond ``pad_to``, or no padding token where
                rows need one.
        """
        batch = [texts] if isinstance(texts, str) else list(texts)
        if not batch:
            raise InputError("there are no texts to tokenize")
        self._truncate(self._limit(max_length, pad_to))
        encoded = self._tokenizer.encode_batch(batch)
        length = pad_to or max(1, *(len(e.ids) for e in encoded))
        if self._pad is None and any(len(e.ids) != length for e in encoded):
            raise InputError("the tokenizer has no padding token: give texts of one length, or name one as pad_token")
        pad_id, pad_type = self._pad or (0, 0)
        return {
            "input_ids": self._rows([e.ids for e in encoded], length, pad_id),
            "attention_mask": self._rows([e.attention_mask for e in encoded], length, 0),
            "token_type_ids": self._rows([e.type_ids for e in encoded], length, pad_type),
        }

    def _limit(self, max_length: int | None, pad_to: int | None) -> int | None:
        known = [n for n in (max_length, self.max_length if max_length is None else None, pad_to) if n is not None]
        if max_length is not None and pad_to is not None and max_length > pad_to:
            raise InputError(f"texts of up to {max_length} tokens do not fit rows of {pad_to}: lower max_length")
        return min(known) if known else None

    def _truncate(self, limit: int | None) -> None:
        special = self._tokenizer.num_special_tokens_to_add(False)
        if limit is None:
            self._tokenizer.no_truncation()
        elif limit <= special:
            raise InputError(f"{limit} tokens hold no text: the tokenizer adds {special} special tokens")
        else:
            self._tokenizer.enable_truncation(limit, direction=self._truncation_side)

    def _rows(self, rows: list[list[int]], length: int, fill: int) -> NDArray[np.int64]:
        array = np.full((len(rows), length), fill, dtype=np.int64)
        for target, row in zip(array, rows, strict=True):
            part = slice(length - len(row), length) if self._pads_left else slice(0, len(row))
            target[part] = row
        return array

    def _padding_token(self, config: dict[str, Any]) -> tuple[int, int] | None:
        """Its id and its token type."""
        own = self._tokenizer.padding or {}
        token = config.get("pad_token")
        name = token.get("content") if isinstance(token, dict) else token
        found = self._tokenizer.token_to_id(name) if isinstance(name, str) else None
        if found is None:
            found = own.get("pad_id")
        return None if found is None else (int(found), int(config.get("pad_token_type_id", own.get("pad_type_id", 0))))


def mean_pool(token_vectors: NDArray[Any], mask: NDArray[Any]) -> NDArray[np.float32]:
    """One vector of length 1 for each text: the mean of its tokens' vectors.

    The pooling of Reimers and Gurevych, Sentence-BERT, 2019 (arXiv:1908.10084), then L2 normalization.

    Args:
        token_vectors: ``[N, L, D]``, the model's last hidden state.
        mask: ``[N, L]``, the attention mask: 1 for a token, 0 for padding.

    Returns:
        float32 ``[N, D]``.

    Raises:
        InputError: the shapes do not fit.
    """
    if token_vectors.ndim != 3 or token_vectors.shape[:2] != mask.shape:
        raise InputError(
            f"mean_pool takes token vectors [N, L, D] and a mask [N, L], "
            f"found {list(token_vectors.shape)} and {list(mask.shape)}"
        )
    weights = mask.astype(np.float32)[..., None]
    total = (token_vectors.astype(np.float32) * weights).sum(axis=1)
    return _unit(total / np.maximum(weights.sum(axis=1), 1e-9))


def search(query_vector: NDArray[Any], vectors: NDArray[Any], top: int = 5) -> list[tuple[int, float]]:
    """The nearest vectors by cosine, best first, as pairs of index and cosine.

    Args:
        query_vector: ``[D]`` or ``[1, D]``.
        vectors: ``[N, D]``.
        top: number of results.

    Raises:
        InputError: the shapes do not fit.
    """
    query = np.asarray(query_vector, np.float32).reshape(-1)
    if vectors.ndim != 2 or vectors.shape[1] != query.size:
        raise InputError(f"search takes vectors [N, {query.size}] for this query, found {list(vectors.shape)}")
    cosines = _unit(vectors.astype(np.float32)) @ _unit(query[None])[0]
    order = np.argsort(-cosines, kind="stable")[:top]
    return [(int(i), float(cosines[i])) for i in order]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return np.asarray(vectors / np.maximum(lengths, np.float32(1e-12)), np.float32)


def _config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{file} must hold one JSON object, found {type(config).__name__}")
    return config
