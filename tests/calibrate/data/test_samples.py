"""Every kind of calibration data, and every refusal with the file and the index in it."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")

from edgebig.calibrate.data.samples import Preparers, Samples, open_samples, recording_of
from edgebig.errors import CalibrationError, InputError
from edgebig.spec import TensorSpec
from edgebig.tasks.speech import frames, read_wav

X = TensorSpec("x", "float32", ("batch", 3))
N = TensorSpec("n", "int64", ("batch",))
FIXED = TensorSpec("x", "float32", (2, 3))
FRAMES = TensorSpec("x", "float32", ("frames", 3))
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
        pytest.param(ROWS.reshape(4, 1, 3), X, [[r] for r in ROWS.tolist()], id="one axis more: samples"),
        pytest.param(ROWS.reshape(2, 2, 3), X, [[r] for r in ROWS.tolist()], id="one axis more: batches, split"),
        pytest.param(ROWS, FRAMES, [ROWS.tolist()], id="no batch axis: the array is a sample"),
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
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "old.npy").write_bytes(b"")
    (tmp_path / "README.md").write_text("what these are")
    assert [w for w, _ in opened(tmp_path)] == ["a.npy[0]", "c.npy[0]", "deep/b.NPY[0]"]
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
    assert (
        ".csv; what can be read is .npy, .npz, .parquet, .arrow, pictures (.jpg, .png, …), .wav, .jsonl and .txt"
        in refusal(tmp_path)
    )
    (tmp_path / "p.png").write_bytes(b"")
    assert "brings no image processor: add a preprocess section" in refusal(tmp_path)
    (tmp_path / "t.txt").write_text("words")
    assert "brings no tokenizer: give arrays (.npz)" in refusal(tmp_path / "t.txt")


def test_text_that_is_not_utf8_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    assert "latin.txt: it is not UTF-8 text: unexpected end of data" in refusal(
        tmp_path / "latin.txt", text=lambda line: {"x": ROWS[:1]}
    )


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


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"x": np.full((1, 3), i, np.float32)} for i in range(count)]


def test_bad_samples_among_a_thousand_are_named_and_may_be_skipped(tmp_path: Path) -> None:
    for i in range(1000):
        np.save(tmp_path / f"{i:03}.npy", np.full((1, 2 if i in (400, 700) else 3), i, np.float32))
    with pytest.raises(CalibrationError) as caught:
        list(opened(tmp_path, limit=2000))
    found = str(caught.value)
    assert found == "calibration sample 400.npy[0]: input 'x' needs float32 batchx3, found 1x2"
    samples = open_samples(tmp_path, (X,), 2000, Preparers(), skip_bad=2)
    assert len(list(samples)) == 998
    reading = samples.reading
    assert (reading.asked, reading.read, reading.used) == (2000, 1000, 998)
    assert [r.where for r in reading.refused] == ["400.npy[0]", "700.npy[0]"]
    assert reading.refused[0].reason == found and len(reading.findings()) == 2
    with pytest.raises(CalibrationError, match=r"sample 700\.npy\[0\].*refused before it: 1, as many as may be"):
        list(open_samples(tmp_path, (X,), 2000, Preparers(), skip_bad=1))


def test_the_record_begins_anew_with_each_reading() -> None:
    data = [{"x": ROWS[:1]}, {"x": np.full((1, 3), np.nan, np.float32)}, {"x": ROWS[1:2]}, {"x": ROWS[2:3]}]
    samples = open_samples(data, (X,), 2, Preparers(), skip_bad=1)
    for _ in range(2):
        assert arrays(samples) == [[ROWS[0].tolist()], [ROWS[1].tolist()]]
        assert (samples.reading.read, samples.reading.used) == (3, 2)
        assert [r.where for r in samples.reading.refused] == ["sample 1"]


def test_a_damaged_file_is_one_refusal(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    np.save(tmp_path / "b.npy", ROWS)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    samples = open_samples(tmp_path, (X,), 100, Preparers(), skip_bad=1)
    assert [w for w, _ in samples] == [*(f"a.npy[{i}]" for i in range(3)), *(f"b.npy[{i}]" for i in range(4))]
    assert [r.where for r in samples.reading.refused] == ["a.npy"]


def test_how_data_was_batched_does_not_matter() -> None:
    state = TensorSpec("h", "float32", (2, "batch", 1))
    h = np.arange(8, dtype=np.float32).reshape(2, 4, 1)
    together = opened([{"x": ROWS, "h": h}], X, state)
    apart = opened([{"x": ROWS[i : i + 1], "h": h[:, i : i + 1]} for i in range(4)], X, state)
    for name in ("x", "h"):
        assert arrays(together, name) == arrays(apart, name)
    assert [w for w, _ in together] == [f"sample 0 row {i}" for i in range(4)]
    assert len(list(opened([{"x": ROWS}], limit=3))) == 3


def test_a_bad_row_is_named_and_the_others_stay() -> None:
    rows = ROWS.copy()
    rows[2, 1] = np.inf
    samples = open_samples([{"x": rows}], (X,), 100, Preparers(), skip_bad=1)
    assert arrays(samples) == [[ROWS[i].tolist()] for i in (0, 1, 3)]
    assert "sample 0 row 2: input 'x' holds NaN or infinity" in samples.reading.refused[0].reason
    assert "sample 0: the inputs differ in their batch size: x 4, n 3" in refusal([{"x": ROWS, "n": [1, 2, 3]}], X, N)


def test_a_state_with_its_batch_on_another_axis_is_read_from_an_npz(tmp_path: Path) -> None:
    h = np.arange(8, dtype=np.float32).reshape(2, 4, 1)
    np.savez(tmp_path / "a.npz", x=ROWS, h=h)
    samples = opened(tmp_path / "a.npz", X, TensorSpec("h", "float32", (2, "batch", 1)))
    assert arrays(samples, "h") == [h[:, i : i + 1].tolist() for i in range(4)]
    assert arrays(samples) == [[row] for row in ROWS.tolist()]


def test_carried_inputs_may_be_missing_or_given(tmp_path: Path) -> None:
    h = TensorSpec("h", "float32", (2, 1))
    np.save(tmp_path / "a.npy", ROWS)
    np.savez(tmp_path / "b.npz", x=ROWS, h=np.ones((4, 2, 1), np.float32))
    (tmp_path / "c.jsonl").write_text('{"x": [1, 2, 3]}\n')
    for name, keys in (("a.npy", {"x"}), ("b.npz", {"x", "h"}), ("c.jsonl", {"x"})):
        samples = open_samples(tmp_path / name, (X, h), 100, Preparers(), carried=frozenset({"h"}))
        assert {key for _, sample in samples for key in sample} == keys
        if name != "b.npz":
            with pytest.raises(CalibrationError):
                list(opened(tmp_path / name, X, h))


def test_lengths_may_differ_from_sample_to_sample(tmp_path: Path) -> None:
    tokens = TensorSpec("ids", "int64", ("batch_size", "sequence_length"))
    lengths = [3, 1, 7]
    for i, length in enumerate(lengths):
        np.save(tmp_path / f"{i}.npy", np.arange(length)[None])
    lines = "".join(f'{{"ids": {list(range(n))}}}\n' for n in lengths)
    (tmp_path / "lines.jsonl").write_text(lines)
    expected = [[list(range(n))] for n in lengths]
    assert arrays(opened(tmp_path, tokens), "ids") == expected
    assert arrays(opened(tmp_path / "lines.jsonl", tokens), "ids") == expected


@pytest.mark.parametrize(
    ("where", "recording"),
    [
        ("a.wav[12]", "a.wav"),
        ("deep/b [1].npz[3]", "deep/b [1].npz"),
        ("lines.txt:3", "lines.txt"),
        ("calls.jsonl:3[7]", "calls.jsonl:3"),
        ("photo.jpg", "photo.jpg"),
        ("both.npz[3] row 1", "both.npz row 1"),
    ],
)
def test_the_recording_of_a_sample(where: str, recording: str) -> None:
    assert recording_of(where) == recording


def write_wav(path: Path, samples: Any, rate: int = 16000) -> None:
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes(np.asarray(samples, "<i2").tobytes())


def three_at_once(path: Any) -> Iterator[dict[str, Any]]:
    for piece in frames(read_wav(path, 16000), 2, 1):
        yield {"x": piece[None]}


def test_recordings_give_their_frames_in_order(tmp_path: Path) -> None:
    write_wav(tmp_path / "b.wav", [16384, -16384, 8192])
    write_wav(tmp_path / "a.wav", [4096])
    samples = opened(tmp_path, sound=three_at_once)
    assert [(w, s["x"].tolist()) for w, s in samples] == [
        ("a.wav[0]", [[0, 0.125, 0]]),
        ("b.wav[0]", [[0, 0.5, -0.5]]),
        ("b.wav[1]", [[-0.5, 0.25, 0]]),
    ]
    assert len(list(opened(tmp_path / "b.wav", sound=three_at_once))) == 2


def test_recordings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    write_wav(tmp_path / "slow.wav", [1, 2], rate=8000)
    write_wav(tmp_path / "empty.wav", [])
    write_wav(tmp_path / "cut.wav", range(100))
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:-10])
    (tmp_path / "none.wav").write_bytes(b"")
    for name, reason in {
        "slow": "has 8000 samples a second, expected 16000: resample it",
        "empty": "holds no samples",
        "cut": "is truncated: 190 of 200 bytes are there",
        "none": "the file ends in its header",
    }.items():
        found = refusal(tmp_path / f"{name}.wav", sound=three_at_once)
        assert found.startswith(f"calibration data: {name}.wav: ") and reason in found
    assert "no feature extractor: add an audio section" in refusal(tmp_path)


def test_captions_beside_pictures_are_left(tmp_path: Path) -> None:
    for name in ("a.png", "a.txt", "labels.jsonl"):
        (tmp_path / name).write_bytes(b"")
    samples = opened(tmp_path, picture=lambda path: {"x": np.zeros((1, 3), np.float32)})
    assert [w for w, _ in samples] == ["a.png"]


@pytest.mark.parametrize("happens", ["vanished", "changed", "cut"])
@pytest.mark.parametrize("skip_bad", [0, 5])
def test_a_folder_that_changes_while_it_is_read(tmp_path: Path, happens: str, skip_bad: int) -> None:
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", ROWS)
    stream = iter(open_samples(tmp_path, (X,), 100, Preparers(), skip_bad=skip_bad))
    next(stream)
    other = tmp_path / "b.npy"
    if happens == "vanished":
        other.unlink()
    else:
        data = other.read_bytes()
        other.write_bytes(data + data if happens == "changed" else data[:-20])
    said = "vanished" if happens == "vanished" else "changed"
    with pytest.raises(CalibrationError, match=rf"b\.npy {said} while the samples were read: compile again"):
        list(stream)


def test_a_file_that_changes_in_the_midst_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": [1, 2, 3]}\n' * 10_000)
    stream = iter(opened(tmp_path / "a.jsonl", limit=100_000))
    next(stream)
    (tmp_path / "a.jsonl").write_text('{"x": [1, 2, 3]}\n{"x"')
    with pytest.raises(CalibrationError, match=r"a\.jsonl changed while the samples were read"):
        list(stream)
