"""Each metric against a value computed by hand, or against its library on the whole set at once."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchmetrics", reason="the extra eval is not installed: pip install 'edgebig[eval]'")

from edgebig.errors import EvaluationError, MissingExtra
from edgebig.evaluate import Item, Metric, choose_metric, evaluate
from edgebig.evaluate.boxes import Boxes
from edgebig.similarity import compare

Array = np.ndarray[Any, Any]


def score(metric: Metric, answers: list[Any], labels: list[Any], output: str = "logits", **inputs: list[Any]) -> float:
    """The metric of a model that gives ``answers`` one after the other."""
    left = iter(answers)

    def run(sample: Any) -> dict[str, Array]:
        answer = next(left)
        return answer if isinstance(answer, dict) else {output: np.asarray(answer)}

    samples = [{name: values[i] for name, values in inputs.items()} for i in range(len(labels))]
    return evaluate(run, [Item(f"item {i}", (samples[i],), label) for i, label in enumerate(labels)], metric).value


def one_hot(classes: list[int], count: int) -> list[Array]:
    return [np.eye(count, dtype=np.float32)[[c]] for c in classes]


def test_accuracy_and_top_5() -> None:
    found, labels = [0, 1, 2, 2], [0, 1, 1, 2]
    assert score(choose_metric("accuracy", None, None), one_hot(found, 3), labels) == 0.75
    ranked = [np.array([[7, 6, 5, 4, 3, 2, 1]], np.float32)] * 4
    assert score(choose_metric("top-5", None, None), ranked, [0, 4, 5, 6]) == 0.5
    # trailing axes of size 1, as SqueezeNet has them
    assert score(choose_metric("accuracy", None, None), [a[..., None, None] for a in ranked], [0, 0, 0, 1]) == 0.75


def test_agreement_with_a_reference_needs_no_labels() -> None:
    found, wanted = one_hot([0, 1, 2, 2], 3), [{"logits": a} for a in one_hot([0, 1, 1, 2], 3)]
    metric = choose_metric("agreement", None, None)
    assert metric.needs == "reference" and score(metric, found, wanted) == 0.75
    # classes of tokens lie along the last axis, of pixels along the second
    tokens = [np.eye(3, dtype=np.float32)[[[0, 1, 2, 0]]]]
    other = [{"logits": np.eye(3, dtype=np.float32)[[[0, 1, 2, 1]]]}]
    assert score(metric, tokens, other) == 0.75
    pixels = np.zeros((1, 2, 2, 2), np.float32)
    pixels[0, 1, 0] = 1
    assert score(metric, [pixels], [{"logits": np.zeros_like(pixels)}]) == 0.5
    for wrong in (np.zeros(3, np.float32), np.zeros((1, 4), np.float32), np.zeros((1, 3), np.int64)):
        with pytest.raises(EvaluationError, match="item 0: agreement compares scores of classes"):
            score(metric, [wrong], [{"logits": np.zeros((1, 3), np.float32)}])


def test_f1_is_the_mean_over_classes() -> None:
    # class 0: 1 hit, 1 missed; class 1: 1 hit, 1 false; class 2: 2 hits: F1 of 2/3, 2/3 and 1
    found, labels = [0, 1, 1, 2, 2], [0, 0, 1, 2, 2]
    assert score(choose_metric("f1", None, None), one_hot(found, 3), labels) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_labels_of_tokens_leave_the_ignored_out() -> None:
    logits = np.eye(3, dtype=np.float32)[[[0, 1, 2, 0]]]
    labels = [np.array([0, 1, 1, -100])]
    assert score(choose_metric("accuracy", None, None), [logits], labels) == pytest.approx(2 / 3)


def test_mean_intersection_over_union() -> None:
    # class 0: 1 of 3 pixels of the union; class 1: 2 of 4; one pixel of 255 does not count
    label = np.array([[0, 0, 1], [1, 1, 255]])
    found = np.array([[0, 1, 1], [1, 0, 0]])
    logits = np.eye(2, dtype=np.float32)[found].transpose(2, 0, 1)[None]
    expected = (1 / 3 + 2 / 4) / 2
    assert score(choose_metric("miou", None, None), [logits], [label]) == pytest.approx(expected)
    small = logits[:, :, :1, :1]  # resized to the label: class 0 everywhere
    assert score(choose_metric("miou", None, None), [small], [label]) == pytest.approx((2 / 5 + 0) / 2)


def test_sums_by_item_are_the_librarys_figure_of_all_items() -> None:
    import torch
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_f1_score,
        multiclass_jaccard_index,
    )

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(600, 5)).astype(np.float32), rng.integers(5, size=600)
    rows, classes = [row[None] for row in logits], [int(v) for v in labels]
    whole = torch.from_numpy(logits), torch.from_numpy(labels)
    accuracy = float(multiclass_accuracy(*whole, num_classes=5, average="micro"))
    assert score(choose_metric("accuracy", None, None), rows, classes) == pytest.approx(accuracy)
    f1 = float(multiclass_f1_score(*whole, num_classes=5, average="macro"))
    assert score(choose_metric("f1", None, None), rows, classes) == pytest.approx(f1)
    maps, masks = logits.reshape(6, 10, 10, 5).transpose(0, 3, 1, 2), labels.reshape(6, 10, 10)
    iou = float(multiclass_jaccard_index(torch.from_numpy(maps.copy()), torch.from_numpy(masks), num_classes=5))
    assert score(choose_metric("miou", None, None), [m[None] for m in maps], list(masks)) == pytest.approx(iou)


def test_perplexity() -> None:
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1, 1e-9, 1e-9]]], np.float32))
    # a causal model: the first two positions predict the tokens 1 and 2
    expected = math.exp(-(math.log(0.25) + math.log(0.8)) / 2)
    tokens, mask = [np.array([[0, 1, 2]])], [np.array([[1, 1, 1]])]
    causal = choose_metric("perplexity", "text-generation-with-past", None)
    assert score(causal, [logits], [None], input_ids=tokens, attention_mask=mask) == pytest.approx(expected, rel=1e-4)
    assert score(causal, [logits], [np.array([0, 1, 2])]) == pytest.approx(expected, rel=1e-4)
    masked = choose_metric("perplexity", "fill-mask", None)
    assert score(masked, [logits], [np.array([-100, 2, -100])]) == pytest.approx(1 / 0.8, rel=1e-4)
    padded = [np.array([[1, 1, 0]])]
    assert score(causal, [logits], [None], input_ids=tokens, attention_mask=padded) == pytest.approx(4, rel=1e-4)
    with pytest.raises(EvaluationError, match="item 0: perplexity needs labels"):
        score(masked, [logits], [None])


def test_correlations() -> None:
    numbers, labels = [1.0, 2.0, 3.0, 10.0], [1.0, 3.0, 2.0, 4.0]
    answers = [np.array([[n]], np.float32) for n in numbers]
    assert score(choose_metric("spearman", None, None), answers, labels) == pytest.approx(0.8)
    pearson = float(np.corrcoef(numbers, labels)[0, 1])
    assert score(choose_metric("pearson", None, None), answers, labels) == pytest.approx(pearson)
    with pytest.raises(EvaluationError, match="pearson needs two or more items whose labels and answers"):
        score(choose_metric("pearson", None, None), answers, [1.0] * 4)


def test_pairs_of_sentences_compare_embeddings() -> None:
    vectors = {0: [1, 0], 1: [0, 1], 2: [1, 1]}
    pairs, labels = [(0, 0), (0, 1), (0, 2)], [5.0, 0.0, 3.0]

    def run(sample: Any) -> dict[str, Array]:
        token = np.array([vectors[int(sample["input_ids"][0, 0])], [9, 9]], np.float32)
        return {"last_hidden_state": token[None]}  # the second token is padding

    def sample(n: int) -> dict[str, Array]:
        return {"input_ids": np.array([[n, 0]]), "attention_mask": np.array([[1, 0]])}

    items = [Item(f"{i}", (sample(a), sample(b)), v) for i, ((a, b), v) in enumerate(zip(pairs, labels, strict=True))]
    expected = float(np.corrcoef([1, 0, math.sqrt(0.5)], labels)[0, 1])
    assert evaluate(run, items, choose_metric("pearson", None, None)).value == pytest.approx(expected)


WORDS = ["", "the", "cat", "sat", "on", "a", "mat", "dog"]


def decode(ids: Any) -> str:
    return " ".join(WORDS[i] for i in ids if i)


@pytest.mark.parametrize("as_scores", [False, True])
def test_word_error_rate(as_scores: bool) -> None:
    answers: list[Array] = [np.array([[1, 2, 3, 4, 1, 6]]), np.array([[1, 7]])]
    if as_scores:
        answers = [np.eye(8, dtype=np.float32)[a] for a in answers]
    # 1 substituted of 6 words, and 1 substituted and 1 deleted of 3
    labels = [["The cat sat, on a mat."], ["the cat sat"]]
    assert score(choose_metric("wer", None, "text", decode=decode), answers, labels) == pytest.approx(3 / 9)
    with pytest.raises(EvaluationError, match="item 0: wer takes one transcript with words"):
        score(choose_metric("wer", None, "text", decode=decode), answers, [["?!"], ["a"]])
    with pytest.raises(EvaluationError, match="wer needs the model's tokenizer"):
        choose_metric("wer", None, "text")


@pytest.mark.parametrize(("name", "corpus"), [("bleu", "corpus_bleu"), ("chrf", "corpus_chrf")])
def test_translation_is_the_librarys_corpus_score(name: str, corpus: str) -> None:
    import sacrebleu

    answers = [np.array([[1, 2, 3, 4, 5, 6]]), np.array([[1, 7, 3, 4, 1, 6]])]
    texts = [decode(a[0]) for a in answers]
    labels = [["the cat sat on a mat", "a cat sat on the mat"], ["the dog sat on the mat", "a dog sat"]]
    expected = getattr(sacrebleu, corpus)(texts, [list(r) for r in zip(*labels, strict=True)]).score
    assert score(choose_metric(name, None, "text", decode=decode), answers, labels) == pytest.approx(expected)


def test_bleu_by_hand() -> None:
    # precisions 5/6, 3/5, 2/4 and 1/3, no brevity penalty
    answers = [np.array([[1, 7, 3, 4, 5, 6]])]
    label = [["the cat sat on a mat"]]
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert score(choose_metric("bleu", None, "text", decode=decode), answers, label) == pytest.approx(expected)


def detection(boxes: list[tuple[float, float, float, float, int, float]]) -> dict[str, Array]:
    """Outputs of a detector of two classes: corners, class and logit of each box."""
    logits = np.full((1, len(boxes), 3), -9, np.float32)
    found = np.zeros((1, len(boxes), 4), np.float32)
    for i, (left, top, right, bottom, name, logit) in enumerate(boxes):
        logits[0, i, name] = logit
        found[0, i] = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return {"logits": logits, "pred_boxes": found}


def test_mean_average_precision() -> None:
    label = Boxes(np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]), np.array([0, 1]))
    exact = detection([(0, 0, 0.5, 0.5, 0, 5), (0.5, 0.5, 1, 1, 1, 5)])
    assert score(choose_metric("map", None, None), [exact], [label]) == pytest.approx(1)
    # the second box has IoU 0.8: it counts at the thresholds 0.5, 0.55 … 0.8 (or 0.75), which is 6 or 7 of 10
    near = detection([(0, 0, 0.5, 0.5, 0, 5), (0.5, 0.5, 1, 0.905, 1, 5)])
    assert score(choose_metric("map", None, None), [near], [label]) == pytest.approx((1 + 0.7) / 2)
    wrong = detection([(0, 0, 0.5, 0.5, 1, 5)])
    assert score(choose_metric("map", None, None), [wrong], [label]) == 0
    with pytest.raises(EvaluationError, match="map needs one labelled box or more"):
        score(choose_metric("map", None, None), [exact], [Boxes(np.zeros((0, 4)), np.zeros(0, np.int64))])


def test_nearness_to_a_reference() -> None:
    expected, found = np.array([[3.0, 4.0]]), np.array([[3.0, 5.0]])
    answers, labels = [found, expected], [{"logits": expected}] * 2
    near = compare(expected, found)
    assert score(choose_metric("cosine", None, None), answers, labels) == pytest.approx((near.cosine + 1) / 2)
    assert score(choose_metric("sqnr", None, None), answers, labels) == pytest.approx(
        -10 * math.log10((1 / 25 + 0) / 2)
    )
    assert score(choose_metric("sqnr", None, None), [expected], labels[:1]) == math.inf
    assert score(choose_metric("sqnr", None, None), [expected * np.nan], labels[:1]) == -math.inf
    with pytest.raises(
        EvaluationError, match=r"item 0: the output 'logits' has shape \[1, 1\], the reference's \[1, 2\]"
    ):
        score(choose_metric("cosine", None, None), [found[:, :1]], labels[:1])


@pytest.mark.parametrize(
    ("task", "label", "metric"),
    [
        ("image-classification", "class", "accuracy"),
        ("token-classification", "class", "f1"),
        ("semantic-segmentation", "mask", "miou"),
        ("object-detection", "boxes", "map"),
        ("text-generation-with-past", None, "perplexity"),
        ("feature-extraction", "number", "spearman"),
        ("feature-extraction", None, "cosine"),
        (None, "class", "accuracy"),
        (None, None, "cosine"),
    ],
)
def test_the_task_chooses(task: str | None, label: str | None, metric: str) -> None:
    assert choose_metric(None, task, label).name == metric


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: score(choose_metric("accuracy", None, None), one_hot([0], 3), [3]),
            "label 3 is none of the model's 3",
        ),
        (
            lambda: score(choose_metric("accuracy", None, None), [np.ones((1, 2, 2))], [0]),
            r"scores \[1, classes\], the",
        ),
        (
            lambda: score(choose_metric("accuracy", None, None, output="x"), one_hot([0], 3), [0]),
            "no such output: it has",
        ),
        (lambda: score(choose_metric("miou", None, None), one_hot([0], 3), [np.zeros((2, 2))]), "miou takes scores"),
        (
            lambda: score(choose_metric("map", None, None), one_hot([0], 3), [None]),
            "map reads the outputs logits and pred",
        ),
        (lambda: choose_metric("precision", None, None), "no such metric: choose one of accuracy, top-5"),
    ],
)
def test_what_does_not_fit_is_named(make: Callable[[], float], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        make()


def test_a_users_function(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def right(outputs, labels):\n"
        "    return np.mean([o['y'].argmax() == v for o, v in zip(outputs, labels)])\n"
        "def wrong(outputs, labels):\n"
        "    raise ValueError('no such class')\n"
        "def nothing(outputs, labels):\n"
        "    return float('nan')\n"
    )
    answers, labels = one_hot([0, 1, 2, 2], 3), [0, 1, 1, 2]
    assert score(choose_metric(f"{file}:right", None, None), answers, labels, "y") == 0.75
    for name, message in (
        ("wrong", r"mine\.py:wrong: ValueError: no such class \(line 5\)"),
        ("nothing", "the function gave nan, a finite number is needed"),
        ("absent", "no function 'absent' in .*: it has right, wrong, nothing"),
    ):
        with pytest.raises(EvaluationError, match=message):
            score(choose_metric(f"{file}:{name}", None, None), answers, labels, "y")
    with pytest.raises(EvaluationError, match="no such file"):
        choose_metric(f"{tmp_path}/none.py:f", None, None)
    file.write_text("import absent_module\n")
    with pytest.raises(EvaluationError, match="ModuleNotFoundError: No module named 'absent_module'"):
        choose_metric(f"{file}:right", None, None)


@pytest.mark.parametrize(
    ("name", "module"),
    [("accuracy", "torchmetrics"), ("pearson", "torchmetrics"), ("wer", "jiwer"), ("bleu", "sacrebleu")],
)
def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    for loaded in [m for m in sys.modules if m.partition(".")[0] == module] + [module]:
        monkeypatch.setitem(sys.modules, loaded, None)
    with pytest.raises(MissingExtra, match=rf"edgebig\[eval\] \({module} is not installed\)"):
        choose_metric(name, None, "text", decode=decode)
