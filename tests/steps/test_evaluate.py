"""Evaluation sets become prepared, labelled samples of a part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny

pytest.importorskip("torchmetrics", reason="the extra eval is not installed: pip install 'edgebig[eval]'")

import edgebig
from edgebig.bundle import Bundle
from edgebig.errors import EvaluationError
from edgebig.graph import Executor, Graph
from edgebig.recipe import Recipe
from edgebig.request import Request, Shapes
from edgebig.source import Source, SourcePart
from edgebig.steps.evaluate import Evaluation, class_names, open_evaluation
from edgebig.steps.evaluate_bundle import open_bundle_evaluation
from edgebig.steps.work import PartWork

Array = np.ndarray[Any, Any]


def opened(
    model: Path, data: Path, processor: Path | None = None, task: str | None = None, **options: Any
) -> Evaluation:
    graph = Graph.load(model)
    part = SourcePart("model", graph, model)
    source = Source("onnx", "m", (part,), task=task, processor=processor)
    recipe = options.pop("recipe", Recipe())
    request = Request.resolve(recipe, "cpu", None, Shapes(), {})
    return open_evaluation(data, PartWork(part, graph, {}), source, request, **options)


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    onnx.save(tiny.mlp(), tmp_path / "mlp.onnx")
    return tmp_path / "mlp.onnx"


def rows(count: int = 30) -> Array:
    return np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)


def answers(model: Path, x: Array) -> Array:
    with Executor(model) as executor:
        return executor.run({"x": x})["y"]


def test_arrays_with_labels(mlp: Path, tmp_path: Path) -> None:
    right = answers(mlp, rows()).argmax(axis=1)
    labels = np.where(np.arange(30) < 3, (right + 1) % 4, right)
    np.savez(tmp_path / "a.npz", x=rows(), labels=labels)
    evaluation = opened(mlp, tmp_path / "a.npz")
    assert (evaluation.metric.name, evaluation.source) == ("accuracy", "a.npz")
    with Executor(mlp) as executor:
        found = evaluation.score(executor.run)
        assert (found.value, found.items) == (pytest.approx(0.9), 30)
        assert evaluation.score(executor.run) == found  # it can be read again
        few = opened(mlp, tmp_path / "a.npz", samples=3).score(executor.run)
        assert (few.value, few.items) == (0, 3)
    (tmp_path / "folder").mkdir()
    for part in range(2):
        np.savez(tmp_path / "folder" / f"{part}.npz", x=rows()[part::2], labels=right[part::2])
    with Executor(mlp) as executor:
        assert opened(mlp, tmp_path / "folder").score(executor.run).value == 1


def test_a_references_answers_are_labels(mlp: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=rows(), y=answers(mlp, rows()))
    with Executor(mlp) as executor:
        assert opened(mlp, tmp_path / "a.npz").score(executor.run).value == pytest.approx(1)
        assert opened(mlp, tmp_path / "a.npz", metric="accuracy").score(executor.run).value == 1


def test_without_labels_a_reference_gives_them(mlp: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows())
    evaluation = opened(mlp, tmp_path / "a.npy")
    assert (evaluation.metric.name, evaluation.needs_reference) == ("cosine", True)
    calls = 0

    with Executor(mlp) as executor:

        def run(sample: Any) -> dict[str, Array]:
            nonlocal calls
            calls += 1
            return executor.run(sample)

        with pytest.raises(EvaluationError, match="cosine compares with a reference"):
            evaluation.score(executor.run)
        against = evaluation.against(run)
        for _ in range(2):
            assert against.score(lambda s: {"y": -executor.run(s)["y"]}).value == pytest.approx(-1)
    assert calls == 30
    with pytest.raises(EvaluationError, match="accuracy needs labels, and .* has none"):
        opened(mlp, tmp_path / "a.npy", metric="accuracy")


def test_labels_and_samples_must_match(mlp: Path, tmp_path: Path) -> None:
    for count, message in (
        (31, r"31 labels in a\.npz, 30 items: no sample for .*\[30\]"),
        (29, r"\[29\] has no label"),
    ):
        np.savez(tmp_path / "a.npz", x=rows(), labels=np.zeros(count, np.int64))
        with Executor(mlp) as executor, pytest.raises(EvaluationError, match=message):
            opened(mlp, tmp_path / "a.npz").score(executor.run)
    np.savez(tmp_path / "a.npz", x=rows(), labels=np.full(30, 4))
    with Executor(mlp) as executor, pytest.raises(EvaluationError, match=r"a\.npz\[0\]: the label 4 is none of"):
        opened(mlp, tmp_path / "a.npz").score(executor.run)
    np.savez(tmp_path / "a.npz", x=rows()[:, :7], labels=np.zeros(30, np.int64))
    with (
        Executor(mlp) as executor,
        pytest.raises(EvaluationError, match=r"evaluation sample a\.npz\[0\]: input 'x' needs"),
    ):
        opened(mlp, tmp_path / "a.npz").score(executor.run)


def test_names_of_classes(mlp: Path, tmp_path: Path) -> None:
    names = {0: "a", 1: "b", 2: "c", 3: "d"}
    (tmp_path / "p").mkdir()
    for file, text in (("labels.json", names), ("config.json", {"id2label": names})):
        (tmp_path / "p" / file).write_text(json.dumps(text))
        found = class_names(tmp_path / "p")
        assert found is not None and found.names == ("a", "b", "c", "d")
        right = answers(mlp, rows()).argmax(axis=1)
        records = [{"x": row.tolist(), "label": names[int(n)]} for row, n in zip(rows(), right, strict=True)]
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
        with Executor(mlp) as executor:
            assert opened(mlp, tmp_path / "a.jsonl", tmp_path / "p").score(executor.run).value == 1
        (tmp_path / "p" / file).unlink()
    (tmp_path / "p" / "labels.json").write_text('{"0": "a", "1": "e"}')
    with pytest.raises(
        EvaluationError, match=r"a\.jsonl:\d+: the label '[bcd]' is none of the 2 classes of the model: a, e"
    ):
        opened(mlp, tmp_path / "a.jsonl", tmp_path / "p")


@pytest.fixture(scope="module")
def squeezenet(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path, list[Path]]:
    out = tmp_path_factory.mktemp("squeezenet") / "b"
    model = shared_data / "squeezenet" / "squeezenet1.1_fp32.onnx"
    pictures = sorted((shared_data / "images").rglob("*.jpg"))[:12]
    assert len(pictures) == 12
    return edgebig.compile(model, out=out, recipe="imagenet-caffe"), model, pictures


def test_pictures_in_class_named_folders(squeezenet: tuple[Bundle, Path, list[Path]], tmp_path: Path) -> None:
    """Labels of FP32's own answers: the compiled FP32 model must reach 100 %, and 0 % where each is moved by one."""
    bundle, model, pictures = squeezenet
    flat = tmp_path / "flat"
    flat.mkdir()
    for picture in pictures:
        shutil.copy(picture, flat / picture.name)
    plain = open_bundle_evaluation(flat, bundle)
    with Executor(model, "all") as executor:
        classes = {item.where: int(executor.run(dict(item.samples[0]))[_only(executor)].argmax()) for item in plain}
    (flat / "labels.csv").write_text("file,label\n" + "".join(f"{k},{v}\n" for k, v in classes.items()))
    with edgebig.load(bundle.path) as session:
        assert open_bundle_evaluation(flat, bundle).score(session.run).value == 1
        (flat / "labels.csv").write_text(
            "file,label\n" + "".join(f"{k},{(v + 1) % 1000}\n" for k, v in classes.items())
        )
        assert open_bundle_evaluation(flat, bundle).score(session.run).value == 0
    folders = tmp_path / "folders"
    for picture in pictures:
        goal = folders / f"class{classes[picture.name] % 2}" / picture.name
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, goal)
    with pytest.raises(EvaluationError, match="has 2 class-named folders, the model 1000 classes without names"):
        open_bundle_evaluation(folders, bundle)


def _only(executor: Executor) -> str:
    (name,) = executor.output_names
    return name
