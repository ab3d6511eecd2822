"""Metrics of text: word error rate (jiwer), BLEU and chrF (sacrebleu)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgebig.errors import EvaluationError
from edgebig.evaluate.item import Array, Item, Outputs
from edgebig.evaluate.metric import Metric, missing_library
from edgebig.evaluate.outputs import pick, shape_of

Decode = Callable[[Sequence[int]], str]

_FEW = 50  # chrF is computed anew from the texts of a resample


def wer(output: str | None, decode: Decode | None) -> Metric:
    """Word error rate of all words: lower case, without punctuation and repeated spaces.

    Args:
        output: token scores ``[1, tokens, vocabulary]``, of which the best is taken, or token ids ``[1, tokens]``.
        decode: makes text of token ids; a CTC tokenizer's joins repeats and drops blanks.

    Raises:
        MissingExtra: jiwer is not installed.
        EvaluationError: ``decode`` is ``None``.
    """
    try:
        import jiwer
    except ImportError as error:
        raise missing_library(error) from error
    to_text = _texts(output, decode, "wer")
    steps = [jiwer.ToLowerCase(), _punctuation(jiwer), jiwer.RemoveMultipleSpaces(), jiwer.Strip()]
    plain = jiwer.Compose(steps)
    words = jiwer.Compose([*steps, jiwer.ReduceToListOfListOfWords()])

    def measure(item: Item, pieces: Sequence[Outputs]) -> Array:
        if len(item.label) != 1 or not plain(item.label[0]):
            raise EvaluationError(f"{item.where}: wer takes one transcript with words in it, found {item.label!r}")
        found = jiwer.process_words(
            item.label[0], to_text(item, pieces), reference_transform=words, hypothesis_transform=words
        )
        errors = found.substitutions + found.deletions + found.insertions
        return np.array([errors, found.hits + found.substitutions + found.deletions], np.float64)

    return Metric("wer", "text", False, "fraction", measure, lambda row: row[0] / row[1])


def bleu(output: str | None, decode: Decode | None) -> Metric:
    """Corpus BLEU as ``sacrebleu.corpus_bleu`` with its defaults, 0 to 100.

    Raises:
        MissingExtra: sacrebleu is not installed.
        EvaluationError: ``decode`` is ``None``.
    """
    sacrebleu = _sacrebleu()
    to_text = _texts(output, decode, "bleu")
    scorer = sacrebleu.BLEU(effective_order=True)  # quiet on single sentences; the counts are the same

    def measure(item: Item, pieces: Sequence[Outputs]) -> Array:
        found = scorer.sentence_score(to_text(item, pieces), item.label)
        return np.array([*found.counts, *found.totals, found.sys_len, found.ref_len], np.float64)

    def total(row: Array) -> float:
        numbers = [int(n) for n in row]
        score = sacrebleu.BLEU.compute_bleu(
            numbers[:4], numbers[4:8], sys_len=numbers[8], ref_len=numbers[9], smooth_method="exp"
        )
        return float(score.score)

    return Metric("bleu", "text", True, "number", measure, total)


def chrf(output: str | None, decode: Decode | None) -> Metric:
    """Corpus chrF as ``sacrebleu.corpus_chrf`` with its defaults, 0 to 100.

    Raises:
        MissingExtra: sacrebleu is not installed.
        EvaluationError: ``decode`` is ``None``.
    """
    sacrebleu = _sacrebleu()
    to_text = _texts(output, decode, "chrf")

    def measure(item: Item, pieces: Sequence[Outputs]) -> tuple[str, list[str]]:
        return to_text(item, pieces), list(item.label)

    def total(kept: list[tuple[str, list[str]]]) -> float:
        most = max(len(references) for _, references in kept)
        streams: list[list[Any]] = [[r[i] if i < len(r) else None for _, r in kept] for i in range(most)]
        return float(sacrebleu.CHRF().corpus_score([text for text, _ in kept], streams).score)

    return Metric("chrf", "text", True, "number", measure, total, sums=False, resamples=_FEW)


def _punctuation(jiwer: Any) -> Any:
    return jiwer.RemovePunctuation()


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError as error:
        raise missing_library(error) from error
    return sacrebleu


def _texts(output: str | None, decode: Decode | None, metric: str) -> Callable[[Item, Sequence[Outputs]], str]:
    """Makes the text of an item's outputs; that of several pieces is joined by spaces."""
    if decode is None:
        raise EvaluationError(
            f"{metric} needs the model's tokenizer to read text from tokens, and it brings none: "
            "give a function with --metric file.py:function"
        )

    def to_text(item: Item, pieces: Sequence[Outputs]) -> str:
        texts = []
        for outputs in pieces:
            found = pick(outputs, output)
            if found.dtype.kind == "f" and found.ndim == 3 and found.shape[0] == 1:
                found = found.argmax(axis=2)
            if found.dtype.kind not in "iu" or found.ndim != 2 or found.shape[0] != 1:
                raise EvaluationError(
                    f"{item.where}: {metric} reads token scores [1, tokens, vocabulary] or ids [1, tokens], "
                    f"the output is {shape_of(found)}"
                )
            texts.append(decode([int(i) for i in found[0]]).strip())
        return " ".join(texts)

    return to_text
