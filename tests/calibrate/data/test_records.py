"""Lines of .jsonl: numbers, texts, pictures and recordings, and every refusal with its line."""

from __future__ import annotations

import json
import wave
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("PIL")

from PIL import Image

from edgebig.calibrate.data.samples import Preparers, Samples, open_samples
from edgebig.errors import CalibrationError, MissingExtra
from edgebig.preprocess import Preprocess
from edgebig.spec import TensorSpec
from edgebig.tasks.speech import read_wav
from edgebig.tasks.vision import prepare

IDS = TensorSpec("ids", "int64", ("batch", "sequence"))
PIXELS = TensorSpec("pixels", "float32", ("batch", 1, 2, 2))
IMAGE = TensorSpec("image", "float32", ("batch", 2, 2))
FLAG = TensorSpec("flag", "bool", ("batch",))
BYTE = TensorSpec("byte", "uint8", ("batch", 2))
GRAY = Preprocess(resize=(2, 2), colour="GRAY")

PREPARERS = Preparers(
    picture=lambda file: {"pixels": prepare(file, GRAY)},
    text=lambda line: {"ids": np.array([[len(word) for word in line.split()]])},
    sound=lambda file: ({"pixels": part.reshape(1, 1, 2, 2)} for part in np.split(read_wav(file, 8000), 2)),
)


def opened(folder: Path, lines: list[Any], *inputs: TensorSpec, prepare: Preparers = PREPARERS) -> Samples:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "data.jsonl").write_text(text, encoding="utf-8")
    return open_samples(folder / "data.jsonl", inputs, 100, prepare)


def values(samples: Samples) -> list[dict[str, Any]]:
    return [{name: array.tolist() for name, array in sample.items()} for _, sample in samples]


def test_keys_named_like_inputs_hold_their_numbers(tmp_path: Path) -> None:
    lines = [
        {"ids": [1, 2], "flag": 1, "byte": [0, 255], "note": "one sample, no batch axis"},
        "",
        {"ids": [[3], [4]], "flag": [True, False], "byte": [[1, 2], [3.0, 4]], "note": "a batch of two"},
    ]
    samples = opened(tmp_path, lines, IDS, FLAG, BYTE)
    assert values(samples) == [
        {"ids": [[1, 2]], "flag": [True], "byte": [[0, 255]]},
        {"ids": [[3]], "flag": [True], "byte": [[1, 2]]},
        {"ids": [[4]], "flag": [False], "byte": [[3, 4]]},
    ]
    assert [where for where, _ in samples] == ["data.jsonl:1", "data.jsonl:3 row 0", "data.jsonl:3 row 1"]
    assert [a.dtype.name for a in next(iter(samples))[1].values()] == ["int64", "bool", "uint8"]


def test_text_and_a_picture_beside_the_file_make_one_sample(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("L", (4, 4), 128).save(tmp_path / "photos" / "gray.png")
    lines = [
        {"text": "  a cat sat ", "image": "photos/gray.png"},
        {"sentence": "hello", "image": str(tmp_path / "photos" / "gray.png")},
    ]
    samples = opened(tmp_path, lines, IDS, PIXELS)
    gray = [[[[128.0, 128.0], [128.0, 128.0]]]]
    assert values(samples) == [{"ids": [[1, 3, 3]], "pixels": gray}, {"ids": [[5]], "pixels": gray}]


def test_a_recording_gives_several_samples(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as stream:
        stream.setparams((1, 2, 8000, 0, "NONE", ""))
        stream.writeframes((np.arange(8, dtype="<i2") << 12).tobytes())
    samples = opened(tmp_path, [{"audio": "a.wav", "text": "hi"}], IDS, PIXELS)
    assert [where for where, _ in samples] == ["data.jsonl:1[0]", "data.jsonl:1[1]"]
    assert [s["pixels"].ravel().tolist() for s in values_of(samples)] == [
        [0, 0.125, 0.25, 0.375],
        [0.5, 0.625, 0.75, 0.875],
    ]


def values_of(samples: Samples) -> list[dict[str, np.ndarray[Any, Any]]]:
    return [sample for _, sample in samples]


def test_an_input_called_image_takes_numbers(tmp_path: Path) -> None:
    assert values(opened(tmp_path, [{"image": [[1, 2], [3, 4]]}], IMAGE)) == [{"image": [[[1, 2], [3, 4]]]}]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"ids": [1, 2', "data.jsonl:2: no JSON object on this line: Expecting"),
        ("[1, 2]", "data.jsonl:2: expected a JSON object, found list"),
        ({"label": 3}, "data.jsonl:2: found label, expected the inputs ids, or text, sentence, image or audio"),
        ({"ids": [[1, 2], [3]]}, "data.jsonl:2: the input 'ids' holds lists of different lengths"),
        ({"ids": [1, None]}, "data.jsonl:2: the input 'ids' needs numbers, found object values"),
        ({"ids": ["1"]}, "data.jsonl:2: the input 'ids' needs numbers, found str"),
        ({"ids": "1 2"}, "data.jsonl:2: the input 'ids' needs numbers, found '1 2'"),
        ({"ids": [1.5]}, "data.jsonl:2: the input 'ids' needs int64, found numbers that do not fit it"),
        ({"ids": [[[1]]]}, "sample data.jsonl:2: input 'ids' needs int64 batchxsequence, found 1x1x1"),
        ({"text": ""}, "data.jsonl:2: 'text' needs text, found ''"),
        ({"text": 3}, "data.jsonl:2: 'text' needs text, found 3"),
        ({"image": "none.png"}, "data.jsonl:2: cannot read the picture"),
        ({"image": 3}, "data.jsonl:2: a file is given by its path, found 3"),
        ({"image": ""}, "data.jsonl:2: a file is given by its path, found ''"),
        ({"audio": "none.wav"}, "data.jsonl:2: cannot read the recording"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, line: Any, expected: str) -> None:
    samples = opened(tmp_path, [{"ids": [1]}, line, {"ids": [2]}], IDS)
    with pytest.raises(CalibrationError) as caught:
        list(samples)
    assert expected in str(caught.value) and samples.reading.used == 1
    skipping = open_samples(tmp_path / "data.jsonl", (IDS,), 100, PREPARERS, skip_bad=1)
    assert [s["ids"] for s in values(skipping)] == [[[1]], [[2]]]


def test_numbers_beyond_the_inputs_dtype_are_refused(tmp_path: Path) -> None:
    for numbers in ([0, 256], [-1, 0], [0.5, 1]):
        with pytest.raises(CalibrationError, match="needs uint8, found numbers that do not fit it"):
            list(opened(tmp_path, [{"byte": numbers}], BYTE))
    with pytest.raises(CalibrationError, match=r"data.jsonl:1: input 'image' holds NaN or infinity"):
        list(opened(tmp_path, ['{"image": [[1e300, 0], [0, 0]]}'], IMAGE))


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(b'{"ids": [1]}\n{"text": "caf\xe9"}\n')
    with pytest.raises(CalibrationError, match=r"data\.jsonl:2: no JSON object on this line"):
        list(open_samples(tmp_path / "data.jsonl", (IDS,), 100, PREPARERS))


@pytest.mark.parametrize(
    ("line", "processor"),
    [({"text": "a"}, "tokenizer"), ({"image": "a.png"}, "image processor"), ({"audio": "a.wav"}, "feature extractor")],
)
def test_a_processor_that_the_model_lacks(tmp_path: Path, line: Any, processor: str) -> None:
    with pytest.raises(CalibrationError, match=f"data.jsonl:1: the model brings no {processor} for what it holds"):
        list(opened(tmp_path, [line], IDS, prepare=Preparers()))


def test_a_missing_package_is_no_bad_sample(tmp_path: Path) -> None:
    def lacking(line: str) -> Any:
        raise MissingExtra("text", "tokenizers")

    (tmp_path / "data.jsonl").write_text('{"text": "a"}')
    with pytest.raises(MissingExtra, match=r"edgebig\[text\]"):
        list(open_samples(tmp_path / "data.jsonl", (IDS,), 100, Preparers(text=lacking), skip_bad=9))


def test_a_picture_in_bytes_that_is_damaged(tmp_path: Path) -> None:
    from edgebig.calibrate.data.records import Records

    stream = BytesIO()
    Image.new("L", (4, 4), 7).save(stream, "PNG")
    records = Records((PIXELS,), PREPARERS)
    ((where, sample),) = records.samples({"image": {"bytes": stream.getvalue(), "path": None}}, "t[0]", tmp_path)
    assert where == "t[0]" and isinstance(sample, dict) and set(sample["pixels"].ravel()) == {7}
    ((_, found),) = records.samples({"image": {"bytes": stream.getvalue()[:40]}}, "t[1]", tmp_path)
    assert str(found) == "calibration data: t[1]: its picture is damaged or of an unknown format"
