"""Every kind of calibration data, and every refusal with the file and the index in it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")

from edgebig.calibrate.samples import Preparers, Samples, open_samples
from edgebig.errors import CalibrationError, InputError
from edgebig.spec import TensorSpec

X = TensorSpec("x", "float32", ("batch", 3))
N = TensorSpec("n", "int64", ("batch",))
FIXED = TensorSpec("x", "float32", (2, 3))
SCALAR = TensorSpec("rate", "int64", ())
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def opened(data: Any, *inputs: TensorSpec, limit: int = 100, **prepare: Callable[[Any], Any]) -> Samples:
    return open_samples(data, inputs or (X,), limit, Preparers(**prepare))


def arrays(samples: Samples, name: str = "x") -> list[list[Any]]:
    return [sample[name].tolist() for _, sample in samples]


def refusal(data: Any, *inputs: TensorSpec, **prepare: Callable[[Any], Any]) -> str:
    with pytest.raises(CalibrationError) as caught:
        list(opened(data, *inputs, **prepare))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_npy_is_read_row_by_row_and_again(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    samples = opened(tmp_path / "rows.npy")
    assert arrays(samples) == [[row.tolist()] for row in ROWS] == arrays(samples)
    assert [where for where, _ in samples] == [f"rows.npy[{i}]" for i in range(4)]
    assert samples.source == "rows.npy"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_holds_an_array_for_each_input(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "all.npz", x=ROWS, n=np.array([5, 6, 7, 8]), unused=np.zeros(1))
    samples = opened(tmp_path / "all.npz", X, N)
    assert arrays(samples, "n") == [[5], [6], [7], [8]]
    assert [sorted(s) for _, s in samples] == [["n", "x"]] * 4


@pytest.mark.parametrize(
    ("array", "spec", "expected"),
    [
        pytest.param(ROWS, X, [[r] for r in ROWS.tolist()], id="same rank: rows of a dynamic batch"),
        pytest.param(ROWS.reshape(2, 2, 3), X, ROWS.reshape(2, 2, 3).tolist(), id="one axis more: samples"),
        pytest.param(ROWS, FIXED, [ROWS[:2].tolist(), ROWS[2:].tolist()], id="same rank: slices of a fixed batch"),
        pytest.param(ROWS.reshape(2, 2, 3), FIXED, ROWS.reshape(2, 2, 3).tolist(), id="fixed, one axis more"),
        pytest.param(np.array([8000, 16000]), SCALAR, [8000, 16000], id="a scalar for each sample"),
    ],
)
def test_what_the_first_axis_means(tmp_path: Path, array: Any, spec: TensorSpec, expected: list[Any]) -> None:
    np.savez(tmp_path / "a.npz", **{spec.name: array})
    assert arrays(opened(tmp_path / "a.npz", spec), spec.name) == expected


def test_a_big_endian_file_gives_the_same_values(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", ROWS.astype(">f4"))
    samples = opened(tmp_path / "b.npy")
    assert arrays(samples) == [[row] for row in ROWS.tolist()]
    assert all(sample["x"].dtype.isnative for _, sample in samples)


def test_a_folder_is_read_in_order_down_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for index, name in enumerate(["c.npy", "a.npy", "deep/b.NPY"]):
        with (tmp_path / name).open("wb") as stream:
            np.save(stream, ROWS[index : index + 1])
    (tmp_path / ".hidden.npy").write_bytes(b"")
    (tmp_path / "README.md").write_text("what these are")
    assert [w for w, _ in opened(tmp_path)] == ["a.npy[0]", "c.npy[0]", "b.NPY[0]"]
    assert len(list(opened(tmp_path, limit=2))) == 2


def test_pictures_and_lines_go_through_the_models_processor(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG"):
        (tmp_path / name).write_bytes(b"")
    samples = opened(tmp_path, picture=lambda path: {"x": np.full((1, 3), len(path.name), np.float32)})
    assert [(w, s["x"][0, 0]) for w, s in samples] == [("a.JPG", 5), ("b.png", 5)]
    (tmp_path / "lines.txt").write_text("one\n\n  three  \n", encoding="utf-8")
    lines = opened(tmp_path / "lines.txt", text=lambda line: {"x": np.full((1, 3), len(line), np.float32)})
    assert [(w, s["x"][0, 0]) for w, s in lines] == [("lines.txt:1", 3), ("lines.txt:3", 5)]


def test_a_generator_is_read_once_and_no_further_than_the_limit() -> None:
    given: list[int] = []

    def generate() -> Iterator[dict[str, Any]]:
        for i in range(1000):
            given.append(i)
            yield {"x": np.full((1, 3), i, np.float32)}

    samples = opened(generate(), limit=5)
    assert arrays(samples) == arrays(samples) == [[[i] * 3] for i in range(5)]
    assert given == [0, 1, 2, 3, 4]
    assert samples.source == "5 samples from Python"


def test_missing_empty_and_unknown_places(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.npz") == f"calibration data: no such file or folder: {tmp_path / 'none.npz'}"
    assert refusal(tmp_path) == f"calibration data: the folder {tmp_path} is empty"
    (tmp_path / "a.csv").write_text("1,2,3")
    assert ".csv; what can be read is .npy, .npz, .txt and pictures" in refusal(tmp_path)
    (tmp_path / "p.png").write_bytes(b"")
    assert "brings no image processor: add a preprocess section" in refusal(tmp_path)
    (tmp_path / "t.txt").write_text("words")
    assert "brings no tokenizer: give arrays (.npz)" in refusal(tmp_path / "t.txt")


def test_text_that_is_not_utf8_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    assert "latin.txt is not UTF-8 text" in refusal(tmp_path / "latin.txt", text=lambda line: {"x": ROWS[:1]})


def test_a_processor_that_fails_names_the_file(tmp_path: Path) -> None:
    def broken(path: Path) -> Any:
        raise InputError("cannot read the picture: cut short")

    (tmp_path / "bad.png").write_bytes(b"no picture")
    found = refusal(tmp_path / "bad.png", picture=broken)
    assert found == "calibration data: bad.png: cannot read the picture: cut short"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (ROWS.astype(np.float64), "sample a.npy[0]: input 'x' needs dtype float32, found float64"),
        (np.zeros((4, 5), np.float32), "sample a.npy[0]: input 'x' needs float32 batchx3, found 1x5"),
        (np.zeros((2, 2, 2, 3), np.float32), "a.npy: input 'x' needs x: float32 batchx3, found 2x2x2x3"),
        (np.where(ROWS == 7, np.nan, ROWS), "sample a.npy[2]: input 'x' holds NaN or infinity"),
        (np.where(ROWS == 10, -np.inf, ROWS), "sample a.npy[3]: input 'x' holds NaN or infinity"),
        (np.asfortranarray(ROWS), "a.npy is damaged or cut short: it is in Fortran order: save it with"),
        (np.array([{"x": 1}], dtype=object), "a.npy is damaged or cut short: it holds Python objects"),
        (np.float32(3), "it holds a scalar, and the first axis must count the samples"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, array: Any, expected: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    assert expected in refusal(tmp_path / "a.npy")


def test_an_npz_that_does_not_fit_the_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=ROWS, y=ROWS)
    assert "a.npz has no array 'n': it holds x, y" in refusal(tmp_path / "a.npz", X, N)
    np.savez(tmp_path / "b.npz", x=ROWS, n=np.arange(3))
    assert "b.npz: the inputs hold different numbers of samples: x 4, n 3" in refusal(tmp_path / "b.npz", X, N)
    np.save(tmp_path / "c.npy", ROWS)
    assert "holds one array, the model takes x, n: give an .npz" in refusal(tmp_path / "c.npy", X, N)


def test_files_that_are_cut_damaged_or_something_else(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", x=np.ones((90, 3), np.float32))
    whole = (tmp_path / "whole.npz").read_bytes()
    stream = io.BytesIO()
    np.save(stream, ROWS)
    hole = bytearray(whole)
    hole[1000:1100] = bytes(100)
    for name, content in {
        "cut.npz": whole[: len(whole) // 2],
        "hole.npz": bytes(hole),
        "text.npz": b"not an archive",
        "cut.npy": stream.getvalue()[:-1],
        "header.npy": stream.getvalue()[:20],
        "empty.npy": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert f"{name} is damaged or cut short" in refusal(tmp_path / name), name


def test_python_samples_are_named_by_their_index() -> None:
    good = {"x": ROWS[:1]}
    assert "sample 1: input 'x' is missing: found y" in refusal([good, {"y": ROWS[:1]}])
    assert "sample 0: input 'x' needs float32 batchx3, found a scalar" in refusal([{"x": np.float32(1)}])
    assert "sample 1: input 'x' needs dtype float32, found int64" in refusal([good, {"x": [[1, 2, 3]]}])


@pytest.mark.parametrize(
    ("data", "found"),
    [({"x": ROWS[:1]}, "dict"), ([{"x": ROWS[:1]}, ROWS], "list of ndarray (sample 1)"), (5, "int of int (sample 0)")],
)
def test_python_data_of_another_kind(data: Any, found: str) -> None:
    expected = "calibration data: needs a path, or an iterable of mappings from input name to array, found "
    assert refusal(data) == expected + found
