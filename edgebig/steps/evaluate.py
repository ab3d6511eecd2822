"""Opens an evaluation set for one part: prepared, labelled samples and the metric that suits them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from edgebig.calibrate.data.samples import Located, Preparers, check_sample, open_samples, recording_of
from edgebig.errors import CalibrationError, EdgebigError, EvaluationError, MissingExtra
from edgebig.evaluate import ClassNames, Item, Labels, Metric, Score, choose_metric, evaluate, read_labels, typed_label
from edgebig.evaluate.label_records import pairs
from edgebig.evaluate.outputs import joined, pick
from edgebig.evaluate.score import Run
from edgebig.evaluate.words import Decode
from edgebig.preprocess import LABELS
from edgebig.request import Request
from edgebig.source import Source
from edgebig.spec import TensorSpec
from edgebig.steps.preparers import preparers_for
from edgebig.steps.work import PartWork

_ALL = sys.maxsize
_LABEL_FREE = {"reference", "tokens", "any"}
_READ_AHEAD = {"class", "text", "number", "boxes", "tokens"}
_KEPT_BYTES = 1 << 28
_ROW = re.compile(r" row \d+$")


@dataclass(frozen=True)
class Evaluation:
    """Labelled items that can be read again, and the metric for them.

    Attributes:
        source: where the items come from, for people.
        metric: what is measured.
        read: starts a fresh iteration over the items.
        needs_reference: whether the labels are a reference's outputs, which :meth:`against` gives.
    """

    source: str
    metric: Metric
    read: Callable[[], Iterator[Item]]
    needs_reference: bool = False

    def __iter__(self) -> Iterator[Item]:
        return self.read()

    def score(self, run: Run, tick: Callable[[int], None] = lambda count: None) -> Score:
        """The score of a model, as :func:`edgebig.evaluate.evaluate`.

        Raises:
            EvaluationError: a label is wrong, or the outputs do not fit the metric.
            EdgebigError: a sample cannot be read, or the model cannot be run.
        """
        if self.needs_reference:
            raise EvaluationError(f"{self.metric.name} compares with a reference: give one to compare with")
        return evaluate(run, self, self.metric, tick=tick)

    def against(self, run: Run) -> Evaluation:
        """This evaluation with a reference's outputs as the labels.

        They are computed while the items are read; up to 256 MiB of them are kept for the next reading.
        """
        kept: dict[int, dict[str, Any]] = {}
        room = [_KEPT_BYTES]

        def read() -> Iterator[Item]:
            for index, item in enumerate(self.read()):
                label = kept.get(index)
                if label is None:
                    label = joined([run(sample) for sample in item.samples])
                    size = sum(array.nbytes for array in label.values())
                    if size <= room[0]:
                        room[0] -= size
                        kept[index] = label
                yield replace(item, label=label)

        return replace(self, read=read, needs_reference=False)


def open_evaluation(
    path: str | Path,
    part: PartWork,
    source: Source,
    request: Request,
    *,
    metric: str | None = None,
    output: str | None = None,
    samples: int | None = None,
) -> Evaluation:
    """Opens the evaluation set at ``path`` for a part.

    Args:
        path: a file or folder; ``docs/evaluation.md`` says which are read, and where labels stand.
        part: whose inputs are prepared; its graph tells them.
        source: the model's processors, its task, and the names of its classes.
        request: its recipe's ``preprocess`` and ``audio`` go before the model's own processors.
        metric: a name of :data:`edgebig.evaluate.METRICS` or ``file.py:function``; by default what suits the task.
        output: the output to measure, where the model has several.
        samples: items are taken from the beginning up to this number; all by default.

    Raises:
        EvaluationError: no such data, labels that are missing, wrong or name no class of the model, or a
            metric that needs what is not there.
        MissingExtra: a library that the metric or the files need is not installed.
    """
    path = Path(path)
    labels = read_labels(path, tuple(spec.name for spec in part.graph.outputs))
    task = request.recipe.task or source.task
    chosen = choose_metric(
        metric,
        task,
        None if labels is None or labels.kind == "reference" else labels.kind,
        output=output,
        decode=_decoder(source) if _reads_text(metric, task, labels) else None,
    )
    if chosen.needs == "reference" and labels is not None and labels.kind != "reference":
        labels = replace(labels, found={}, kind="none")
    if labels is None and chosen.needs not in _LABEL_FREE:
        raise EvaluationError(
            f"{chosen.name} needs labels, and {path} has none: put them into class-named folders, labels.csv, a label "
            "column or an array labels; or use --metric cosine, which needs none"
        )
    names = class_names(source.processor) or _folder_names(labels, part.graph.outputs, output)
    found = {} if labels is None else dict(_typed(labels, chosen, names, output))
    data = path if labels is None else labels.data
    located = _open(data, part, preparers_for(part, source, request), may_be_pairs=chosen.needs == "number")

    def read() -> Iterator[Item]:
        items = _items(iter(located), found, labels.source if labels is not None else "", is_labelled=bool(found))
        try:
            yield from islice(items, samples)
        except CalibrationError as error:
            raise _as_evaluation(error) from error

    needs_reference = chosen.needs == "reference" and not found
    return Evaluation(labels.source if labels is not None else path.name, chosen, read, needs_reference)


def _open(data: Path, part: PartWork, prepare: Preparers, *, may_be_pairs: bool) -> Iterable[Located]:
    """The samples, which can be read again."""
    pairs_found = _pairs(data) if may_be_pairs else {}
    if pairs_found:
        return _Paired(pairs_found, part.graph.inputs, prepare, data)
    try:
        return open_samples(data, part.graph.inputs, _ALL, prepare)
    except CalibrationError as error:
        raise _as_evaluation(error) from error


def class_names(processor: Path | None) -> ClassNames | None:
    """The names of the model's classes, from ``labels.json`` or ``config.json`` in its processor's folder.

    Raises:
        EvaluationError: the file is damaged.
    """
    for file in () if processor is None else (processor / LABELS, processor / "config.json"):
        if not file.is_file():
            continue
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            by_number = data.get("id2label", data if file.name == LABELS else {})
            names = {int(number): str(name) for number, name in by_number.items()}
        except (OSError, ValueError, AttributeError) as error:
            raise EvaluationError(f"cannot read the names of the classes in {file}: {error}") from error
        if names and set(names) == set(range(len(names))):
            return ClassNames(tuple(names[i] for i in range(len(names))), "the model")
    return None


def _folder_names(labels: Labels | None, outputs: Iterable[TensorSpec], output: str | None) -> ClassNames | None:
    """The class-named folders in sorted order, if they are as many as the model has classes."""
    if labels is None or not labels.folders:
        return None
    specs = {spec.name: spec for spec in outputs}
    spec = specs.get(output or "logits") or (next(iter(specs.values())) if len(specs) == 1 else None)
    classes = spec.shape[1] if spec is not None and len(spec.shape) > 1 else None
    if isinstance(classes, int) and classes != len(labels.folders):
        raise EvaluationError(
            f"{labels.data} has {len(labels.folders)} class-named folders, the model {classes} classes without names: "
            "give labels.csv with class numbers"
        )
    return ClassNames(labels.folders, "the folders")


def _typed(
    labels: Labels, metric: Metric, names: ClassNames | None, output: str | None
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What gives each label. Small labels are checked now, so that a wrong one is found before anything runs."""
    for key, (raw, where) in labels.found.items():
        value = {"scores": pick(raw, output)} if labels.kind == "reference" and metric.needs == "class" else raw
        if metric.needs in _READ_AHEAD:
            label = typed_label(value, where, metric.needs, names)
            yield key, lambda label=label: label  # type: ignore[misc]
        else:
            yield key, lambda v=value, w=where: typed_label(v, w, metric.needs, names)  # type: ignore[misc]


def _items(
    located: Iterator[Located], found: Mapping[str, Callable[[], Any]], source: str, *, is_labelled: bool
) -> Iterator[Item]:
    """Samples that share a label, one after the other, as items."""
    if not is_labelled:
        yield from (Item(where, (sample,)) for where, sample in located)
        return
    used: set[str] = set()
    for key, group in groupby(located, lambda pair: _key(pair[0], found)):
        together = list(islice(group, None if key in found else 1))
        if key not in found:
            raise EvaluationError(f"evaluation data: {together[0][0]} has no label in {source}")
        if any(_ROW.search(where) for where, _ in together):
            raise EvaluationError(
                f"evaluation data: {key} holds a batch under one label: give one sample for each label"
            )
        used.add(key)
        yield Item(key, tuple(sample for _, sample in together), found[key]())
    if len(used) < len(found):
        lost = next(key for key in found if key not in used)
        raise EvaluationError(
            f"evaluation data: {len(found)} labels in {source}, {len(used)} items: no sample for the label of {lost}"
        )


def _key(where: str, found: Mapping[str, Any]) -> str:
    whole = _ROW.sub("", where)
    return whole if whole in found else recording_of(whole)


def _pairs(data: Path) -> dict[str, tuple[str, str]]:
    files = [data] if data.is_file() else sorted(f for f in data.rglob("*") if f.is_file())
    found: dict[str, tuple[str, str]] = {}
    for file in files:
        found.update(pairs(file, file.name if file == data else file.relative_to(data).as_posix()))
    return found


class _Paired:
    """The samples of pairs of sentences, the two of a pair one after the other."""

    def __init__(
        self, found: Mapping[str, tuple[str, str]], inputs: Sequence[TensorSpec], prepare: Preparers, data: Path
    ) -> None:
        if prepare.text is None:
            raise EvaluationError(f"evaluation data: {data} holds sentences, and the model brings no tokenizer")
        self._found, self._inputs, self._make = found, inputs, prepare.text

    def __iter__(self) -> Iterator[Located]:
        names = {spec.name for spec in self._inputs}
        for where, sentences in self._found.items():
            for sentence in sentences:
                sample = {name: array for name, array in self._make(sentence).items() if name in names}
                check_sample(where, sample, self._inputs)
                yield where, sample


def _reads_text(metric: str | None, task: str | None, labels: Labels | None) -> bool:
    if metric is not None:
        return metric in {"wer", "bleu", "chrf"}
    return labels is not None and (labels.kind == "text" or (task or "").startswith(("automatic-speech", "text2text")))


def _decoder(source: Source) -> Decode | None:
    """Text of token ids by the model's tokenizer; ``None`` where it brings none."""
    if source.processor is None or not (source.processor / "tokenizer_config.json").is_file():
        return None
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtra("export", "transformers") from error
    tokenizer = AutoTokenizer.from_pretrained(source.processor)
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True))


def _as_evaluation(error: EdgebigError) -> EvaluationError:
    """The readers of samples speak of calibration."""
    return EvaluationError(re.sub(r"^calibration (data|sample)", r"evaluation \1", str(error)))
