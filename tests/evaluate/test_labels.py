"""Where labels stand, what they become, and how wrong ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgebig.errors import EvaluationError
from edgebig.evaluate import ClassNames, Labels, read_labels, typed_label
from edgebig.evaluate.label_records import pairs

NAMES = ClassNames(("cat", "dog", "7"), "the model")


def picture(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 2), 1).save(path)
    return path


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def values(labels: Labels | None) -> dict[str, Any]:
    assert labels is not None
    return {key: raw for key, (raw, _) in labels.found.items()}


def test_class_named_folders(tmp_path: Path) -> None:
    for name in ("dog/2.png", "cat/1.png", "cat/more/3.png"):
        picture(tmp_path / name)
    found = read_labels(tmp_path)
    assert values(found) == {"cat/1.png": "cat", "cat/more/3.png": "cat", "dog/2.png": "dog"}
    assert found is not None and (found.folders, found.kind) == (("cat", "dog"), "class")
    picture(tmp_path / "stray.png")
    with pytest.raises(EvaluationError, match=r"stray\.png lies beside the class-named folders"):
        read_labels(tmp_path)


def test_pictures_without_labels_have_none(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert read_labels(tmp_path) is None
    assert read_labels(tmp_path / "a.png") is None
    with pytest.raises(EvaluationError, match="no such file or folder"):
        read_labels(tmp_path / "absent")


def test_lists(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "sub" / "b.png")
    (tmp_path / "labels.csv").write_text("file,label\na.png,cat\nsub/b.png,dog\n")
    found = read_labels(tmp_path)
    assert found is not None and found.found == {
        "a.png": ("cat", "labels.csv:2"),
        "sub/b.png": ("dog", "labels.csv:3"),
    }
    assert read_labels(tmp_path / "labels.csv") == found
    (tmp_path / "labels.csv").unlink()
    lines(tmp_path / "metadata.jsonl", {"file_name": "a.png", "label": 1}, {"file_name": "sub/b.png", "label": 0})
    assert values(read_labels(tmp_path)) == {"a.png": 1, "sub/b.png": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,cat\nb.png,dog\n", r"labels\.csv:3: no such file in .*: b\.png"),
        ("file,label\na.png,cat\na.png,dog\n", r"labels\.csv:3: a\.png has a label already at labels\.csv:2"),
        ("file,label\na.png\n", r"labels\.csv:2: the line has not as many fields as the first"),
        ("file,label\na.png,\n", r"labels\.csv:2: a line needs file and label, found file, label"),
        ("name,kind\na.png,cat\n", r"labels\.csv:2: a line needs file and label, found name, kind"),
        ("file,label\n../a.png,cat\n", r"labels\.csv:2: no such file in"),
    ],
)
def test_wrong_lists_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    picture(tmp_path / "set" / "a.png")
    picture(tmp_path / "a.png")
    (tmp_path / "set" / "labels.csv").write_text(text)
    with pytest.raises(EvaluationError, match=message):
        read_labels(tmp_path / "set")


def test_masks_beside_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    mask = picture(tmp_path / "masks" / "a.png", "L")
    found = read_labels(tmp_path)
    assert found is not None and found.data == tmp_path / "images"
    assert found.found == {"a.jpg": (mask, "masks/a.png")}
    assert typed_label(mask, "masks/a.png", "mask", None).tolist() == [[1] * 4] * 2
    picture(tmp_path / "images" / "b.jpg")
    with pytest.raises(EvaluationError, match=r"the picture b\.jpg has no mask"):
        read_labels(tmp_path)
    with pytest.raises(EvaluationError, match=r"m: a mask holds class numbers .* found RGB"):
        typed_label(picture(tmp_path / "rgb.png"), "m", "mask", None)


def test_coco_boxes_become_shares_of_the_picture(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    data: dict[str, Any] = {
        "images": [{"id": 5, "file_name": "a.png", "width": 4, "height": 2}],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 18, "bbox": [1, 0, 2, 1]},
            {"id": 2, "image_id": 5, "category_id": 18, "bbox": [0, 0, 4, 2], "iscrowd": 1},
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    found = read_labels(tmp_path)
    raw = values(found)["a.png"]
    assert raw == {"boxes": [[0.25, 0, 0.75, 0.5]], "classes": ["dog"]}
    boxes = typed_label(raw, "here", "boxes", NAMES)
    assert (boxes.classes.tolist(), boxes.corners.tolist()) == ([1], [[0.25, 0, 0.75, 0.5]])
    data["annotations"][0]["category_id"] = 3
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    with pytest.raises(EvaluationError, match=r"annotations\.json: annotations\[0\]: its image_id or category_id"):
        read_labels(tmp_path)
    data["annotations"] = []
    data["images"][0]["file_name"] = "b.png"
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    with pytest.raises(EvaluationError, match=r"images\[0\]: no such picture in .*: b\.png"):
        read_labels(tmp_path)


def test_records(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", {"text": "good", "label": "cat"}, {"text": "bad", "label": "dog"})
    assert values(read_labels(file)) == {"a.jsonl:1": "cat", "a.jsonl:2": "dog"}
    assert read_labels(lines(tmp_path / "b.jsonl", {"text": "good"})) is None
    with pytest.raises(EvaluationError, match=r"c\.jsonl:2: it has no 'label', as the first line has: found text"):
        read_labels(lines(tmp_path / "c.jsonl", {"text": "good", "label": 1}, {"text": "bad"}))
    both = lines(tmp_path / "d.jsonl", {"sentence1": "a", "sentence2": "b", "score": 0.5})
    assert pairs(both, "d.jsonl") == {"d.jsonl:1": ("a", "b")}
    found = read_labels(both)
    assert found is not None and (values(found), found.kind) == ({"d.jsonl:1": 0.5}, "number")


def test_tables_and_arrays(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table({"text": ["a", "b"], "label": [1, 0]}), tmp_path / "a.parquet")
    assert values(read_labels(tmp_path / "a.parquet")) == {"a.parquet[0]": 1, "a.parquet[1]": 0}
    parquet.write_table(arrow.table({"text": ["a", "b"], "label": [1, None]}), tmp_path / "b.parquet")
    with pytest.raises(EvaluationError, match=r"b\.parquet\[1\]: its 'label' is missing"):
        read_labels(tmp_path / "b.parquet")
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3)), labels=np.array([2, 1]))
    assert values(read_labels(tmp_path / "a.npz")) == {"a.npz[0]": 2, "a.npz[1]": 1}
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 3)), y=np.array([[1.0, 2], [3, 4]]))
    assert read_labels(tmp_path / "b.npz") is None
    answers = read_labels(tmp_path / "b.npz", ("y",))
    assert answers is not None and answers.kind == "reference"
    assert answers.found["b.npz[1]"][0]["y"].tolist() == [[3, 4]]
    np.save(tmp_path / "c.npy", np.zeros((2, 3)))
    np.save(tmp_path / "c.labels.npy", np.array([0, 1]))
    assert values(read_labels(tmp_path / "c.npy")) == {"c.npy[0]": 0, "c.npy[1]": 1}


def test_the_models_order_wins() -> None:
    assert [typed_label(raw, "w", "class", NAMES) for raw in ("dog", 1, "0", "7")] == [1, 1, 0, 2]
    assert typed_label([0, -100, 2], "w", "class", NAMES).tolist() == [0, -100, 2]
    assert typed_label(["dog", "cat"], "w", "class", NAMES).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("raw", "need", "message"),
    [
        ("bird", "class", "labels.csv:2: the label 'bird' is none of the 3 classes of the model: cat, dog, 7"),
        (3, "class", "labels.csv:2: there is no class 3 of 3: classes count from 0"),
        (0.5, "class", "labels.csv:2: the label must be one of the classes of the model, found 0.5"),
        (4, "text", "labels.csv:2: the label must be a text, or a list of them, found 4"),
        ("high", "number", "labels.csv:2: the label must be a number, found 'high'"),
        (float("nan"), "number", "labels.csv:2: the label must be a finite number, found nan"),
        ([1.5], "tokens", "labels.csv:2: the label must be a list of whole numbers, found [1.5]"),
        (3, "boxes", "labels.csv:2: the label must be boxes of a COCO file, found 3"),
        (3, "mask", "labels.csv:2: the label must be a map of classes [height, width], found 3"),
    ],
)
def test_wrong_labels_say_where_and_what(raw: Any, need: Any, message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        typed_label(raw, "labels.csv:2", need, NAMES)
    assert str(caught.value) == message
