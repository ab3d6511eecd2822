"""Parquet and Arrow files as pyarrow and datasets write them, whole and damaged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("pyarrow")

import pyarrow
from pyarrow import ipc, parquet

from edgebig.calibrate.data.samples import Preparers, Samples, open_samples
from edgebig.errors import CalibrationError, MissingExtra
from edgebig.preprocess import Preprocess
from edgebig.spec import TensorSpec
from edgebig.tasks.vision import prepare

X = TensorSpec("x", "float32", ("batch", 2, 3))
N = TensorSpec("n", "int64", ("batch",))
IDS = TensorSpec("ids", "int64", ("batch", "sequence"))
PIXELS = TensorSpec("pixels", "float32", ("batch", 1, 2, 2))
VALUES = np.arange(60, dtype=np.float32).reshape(10, 2, 3)
PREPARERS = Preparers(
    picture=lambda file: {"pixels": prepare(file, Preprocess(resize=(2, 2), colour="GRAY"))},
    text=lambda line: {"ids": np.array([[len(word) for word in line.split()]])},
)


def opened(path: Path, *inputs: TensorSpec, limit: int = 1000, skip_bad: int = 0) -> Samples:
    return open_samples(path, inputs or (X,), limit, PREPARERS, skip_bad=skip_bad)


def stacked(samples: Samples, name: str = "x") -> Any:
    return np.concatenate([sample[name] for _, sample in samples])


def columns(kind: str) -> Any:
    """A table of ``x`` and ``n``, with the lists of ``x`` in one of Arrow's forms."""
    rows = VALUES.tolist()
    types = {
        "lists": pyarrow.list_(pyarrow.list_(pyarrow.float32())),
        "doubles": pyarrow.list_(pyarrow.list_(pyarrow.float64())),
        "large": pyarrow.large_list(pyarrow.large_list(pyarrow.float32())),
        "fixed": pyarrow.list_(pyarrow.list_(pyarrow.float32(), 3), 2),
    }
    label = pyarrow.array([f"label {i}" for i in range(10)])
    return pyarrow.table({"label": label, "x": pyarrow.array(rows, types[kind]), "n": pyarrow.array(range(10))})


@pytest.mark.parametrize("kind", ["lists", "doubles", "large", "fixed"])
def test_columns_named_like_inputs(tmp_path: Path, kind: str) -> None:
    table = columns(kind)
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    with ipc.new_stream(tmp_path / "stream.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=4)
    with ipc.new_file(tmp_path / "file.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=4)
    for name in ("a.parquet", "stream.arrow", "file.arrow"):
        samples = opened(tmp_path / name, X, N)
        np.testing.assert_array_equal(stacked(samples), VALUES)
        assert stacked(samples, "n").tolist() == list(range(10))
        assert [where for where, _ in samples] == [f"{name}[{i}]" for i in range(10)]


def test_a_folder_of_parquet_is_read_in_order(tmp_path: Path) -> None:
    for part in (1, 0):
        table = columns("lists").slice(5 * part, 5)
        parquet.write_table(table, tmp_path / f"train-0000{part}-of-00002.parquet")
    (tmp_path / "README.md").write_text("a dataset")
    np.testing.assert_array_equal(stacked(opened(tmp_path)), VALUES)
    assert len(list(opened(tmp_path, limit=7))) == 7


def test_rows_of_different_lengths(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"ids": [[1, 2], [3], [4, 5, 6]]}), tmp_path / "a.parquet")
    assert [s["ids"].tolist() for _, s in opened(tmp_path / "a.parquet", IDS)] == [[[1, 2]], [[3]], [[4, 5, 6]]]


def test_a_dataset_saved_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"x": datasets.Array2D((2, 3), "float32"), "n": datasets.Value("int64")})
    whole = datasets.Dataset.from_dict({"x": VALUES.tolist(), "n": list(range(10))}, features=features)
    whole.save_to_disk(tmp_path / "whole", num_shards=3)
    samples = opened(tmp_path / "whole", X, N)
    np.testing.assert_array_equal(stacked(samples), VALUES)
    assert samples.source == "whole" and next(iter(samples))[0] == "data-00000-of-00003.arrow[0]"

    whole.select([7, 2, 5]).save_to_disk(tmp_path / "chosen")
    assert stacked(opened(tmp_path / "chosen", X, N), "n").tolist() == [7, 2, 5]

    splits = datasets.DatasetDict({"test": whole.select(range(8, 10)), "train": whole.select(range(3))})
    splits.save_to_disk(tmp_path / "splits")
    samples = opened(tmp_path / "splits", X, N)
    assert samples.source == "splits, split train" and stacked(samples, "n").tolist() == [0, 1, 2]
    assert stacked(opened(tmp_path / "splits" / "test", X, N), "n").tolist() == [8, 9]


def test_texts_and_pictures_of_a_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    image_module = pytest.importorskip("PIL.Image")
    for value in (10, 200):
        image_module.new("L", (3, 3), value).save(tmp_path / f"{value}.png")
    rows = {"image": [str(tmp_path / "10.png"), str(tmp_path / "200.png")], "text": ["a cat", "the dog sat"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(tmp_path / "saved")
    made.to_parquet(str(tmp_path / "made.parquet"))
    for path in (tmp_path / "saved", tmp_path / "made.parquet"):
        found = [sample for _, sample in opened(path, IDS, PIXELS)]
        assert [s["ids"].tolist() for s in found] == [[[1, 3]], [[3, 3, 3]]]
        assert [set(s["pixels"].ravel()) for s in found] == [{10}, {200}]


def test_bad_rows_are_named_and_may_be_skipped(tmp_path: Path) -> None:
    rows = [[1, 2], None, [3, None], [4], [5.0, float("nan")]]
    nested = pyarrow.table({"ids": pyarrow.array([[1, 2], None, [3, None], [4]])})
    parquet.write_table(nested, tmp_path / "a.parquet")
    with pytest.raises(CalibrationError, match=r"a\.parquet\[1\]: a value is missing \(null\)"):
        list(opened(tmp_path / "a.parquet", IDS))
    samples = opened(tmp_path / "a.parquet", IDS, skip_bad=2)
    assert [s["ids"].tolist() for _, s in samples] == [[[1, 2]], [[4]]]
    assert [r.where for r in samples.reading.refused] == ["a.parquet[1]", "a.parquet[2]"]

    parquet.write_table(pyarrow.table({"ids": rows[3:]}), tmp_path / "b.parquet")
    floats = TensorSpec("ids", "float32", ("batch", "sequence"))
    with pytest.raises(CalibrationError, match=r"sample b\.parquet\[1\]: input 'ids' holds NaN or infinity"):
        list(opened(tmp_path / "b.parquet", floats))

    parquet.write_table(pyarrow.table({"x": [[[1.0, 2, 3], [4, 5]]]}), tmp_path / "c.parquet")
    with pytest.raises(CalibrationError, match=r"c\.parquet\[0\]: it holds lists of different lengths"):
        list(opened(tmp_path / "c.parquet"))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    table = columns("lists")
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    with ipc.new_stream(tmp_path / "a.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=4)
    whole = (tmp_path / "a.arrow").read_bytes()
    for name, data in {
        "cut.parquet": (tmp_path / "a.parquet").read_bytes()[:-30],
        "empty.parquet": b"",
        "text.parquet": b"no table at all",
        "cut.arrow": whole[: len(whole) // 2],
        "end.arrow": whole[:-8],
        "empty.arrow": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CalibrationError, match=f"{name} is damaged or cut short after 0 rows"):
            list(opened(tmp_path / name))
    broken = bytearray((tmp_path / "a.parquet").read_bytes())
    broken[4:200] = bytes(196)
    (tmp_path / "broken.parquet").write_bytes(broken)
    with pytest.raises(CalibrationError, match=r"broken\.parquet"):
        list(opened(tmp_path / "broken.parquet"))


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"label": [1], "title": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(CalibrationError, match=r"a\.parquet: found label, title, expected the inputs x, or text"):
        list(opened(tmp_path / "a.parquet"))
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / name).write_text(json.dumps({"_data_files": [{"filename": "gone.arrow"}]}))
    with pytest.raises(CalibrationError, match=r"the file .*gone\.arrow is missing"):
        opened(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"_indices_data_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(CalibrationError, match=r"call flatten_indices\(\) and save it again"):
        opened(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(CalibrationError, match=r"state\.json is damaged"):
        opened(tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pyarrow.table({"ids": [[1]]}), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r'pip install "edgebig\[data\]"'):
        list(opened(tmp_path / "a.parquet", IDS, skip_bad=9))


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    wide = TensorSpec("x", "float32", ("batch", 65536))
    row = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ones(4 * 65536, np.float32)), 65536)
    batch = pyarrow.record_batch({"x": row})
    with parquet.ParquetWriter(tmp_path / "a.parquet", batch.schema, compression="none", use_dictionary=False) as file:
        for _ in range(50):
            file.write_batch(batch)
    with ipc.new_stream(tmp_path / "a.arrow", batch.schema) as stream:
        for _ in range(50):
            stream.write_batch(batch)
    for name in ("a.parquet", "a.arrow"):
        count, most = 0, 0
        for _ in opened(tmp_path / name, wide):
            count, most = count + 1, max(most, pyarrow.total_allocated_bytes())
        assert count == 200 and most < 24 << 20  # the file holds 50 MiB
