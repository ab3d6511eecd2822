"""The metrics by name, and which one suits a task."""

from __future__ import annotations

from collections.abc import Callable

from edgebig.errors import EvaluationError
from edgebig.evaluate.boxes import mean_average_precision
from edgebig.evaluate.counted import accuracy, f1, miou, perplexity
from edgebig.evaluate.metric import Metric
from edgebig.evaluate.nearness import agreement, cosine, sqnr
from edgebig.evaluate.numbers import correlation
from edgebig.evaluate.user import user_metric
from edgebig.evaluate.words import Decode, bleu, chrf, wer

METRICS = (
    "accuracy",
    "top-5",
    "f1",
    "miou",
    "map",
    "perplexity",
    "pearson",
    "spearman",
    "wer",
    "bleu",
    "chrf",
    "agreement",
    "cosine",
    "sqnr",
)
"""The names that ``--metric`` takes, beside ``file.py:function``."""

_BY_TASK = {
    "image-classification": "accuracy",
    "audio-classification": "accuracy",
    "text-classification": "accuracy",
    "token-classification": "f1",
    "semantic-segmentation": "miou",
    "image-segmentation": "miou",
    "object-detection": "map",
    "text-generation": "perplexity",
    "fill-mask": "perplexity",
    "automatic-speech-recognition": "wer",
    "text2text-generation": "bleu",
    "feature-extraction": "spearman",
    "sentence-similarity": "spearman",
}
_BY_LABEL = {"class": "accuracy", "number": "spearman", "mask": "miou", "boxes": "map", "text": "wer"}


def choose_metric(
    name: str | None,
    task: str | None,
    label: str | None,
    *,
    output: str | None = None,
    decode: Decode | None = None,
) -> Metric:
    """The metric of that name; without a name the one that suits the task and the labels.

    Args:
        name: one of :data:`METRICS`, or ``path/to/file.py:function``.
        task: Optimum's name of the task, where it is known.
        label: what the labels look like: ``class``, ``text``, ``number``, ``mask`` or ``boxes``; ``None``
            where there are none, which leaves perplexity for language models and else ``cosine``.
        output: the output to measure, where the model has several.
        decode: makes text of token ids, where the model brings a tokenizer.

    Raises:
        EvaluationError: no such metric, or it needs what the model lacks.
        MissingExtra: its library is not installed.
    """
    kind = (task or "").removesuffix("-with-past")
    if name is not None and ":" in name:
        return user_metric(name)
    chosen = name or _suited(kind, label)
    is_causal = kind in ("", "text-generation")
    makers: dict[str, Callable[[], Metric]] = {
        "accuracy": lambda: accuracy(output),
        "top-5": lambda: accuracy(output, top=5),
        "f1": lambda: f1(output),
        "miou": lambda: miou(output),
        "map": mean_average_precision,
        "perplexity": lambda: perplexity(output, is_causal=is_causal),
        "pearson": lambda: correlation("pearson", output),
        "spearman": lambda: correlation("spearman", output),
        "wer": lambda: wer(output, decode),
        "bleu": lambda: bleu(output, decode),
        "chrf": lambda: chrf(output, decode),
        "agreement": lambda: agreement(output),
        "cosine": lambda: cosine(output),
        "sqnr": lambda: sqnr(output),
    }
    if chosen not in makers:
        raise EvaluationError(
            f"--metric {chosen}: no such metric: choose one of {', '.join(METRICS)}, or give file.py:function"
        )
    return makers[chosen]()


def _suited(task: str, label: str | None) -> str:
    if label is None:
        return "perplexity" if task == "text-generation" else "cosine"
    by_task = _BY_TASK.get(task)
    if task == "feature-extraction" and label != "number":
        by_task = None
    return by_task or _BY_LABEL[label]
