"""Reading golden inputs and outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from edgebig.bundle import Bundle, hash_file
from edgebig.errors import BundleError
from edgebig.runtime import golden


def test_pairs_come_back_by_name_and_in_order(tmp_path: Path) -> None:
    arrays = {f"in.enc/x.1.{i}": np.full((1, 3), i, np.float32) for i in (10, 2, 0)}
    arrays |= {f"out.y.{i}": np.full((1, 3), i + 1, np.float32) for i in (10, 2, 0)}
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()}, golden=arrays)
    pairs = golden(bundle)
    assert [list(inputs) for inputs, _ in pairs] == [["enc/x.1"]] * 3
    assert [float(inputs["enc/x.1"][0, 0]) for inputs, _ in pairs] == [0, 2, 10]
    assert [float(outputs["y"][0, 0]) for _, outputs in pairs] == [1, 3, 11]


def test_a_part_without_them_has_none(tmp_path: Path) -> None:
    assert golden(tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})) == []


def test_damage_pickles_and_odd_names_are_refused(tmp_path: Path) -> None:
    model = {"model": tiny.add_one()}
    damaged = tiny.write_bundle(tmp_path / "damaged", model, golden={"in.x.0": np.zeros(1)})
    (damaged.path / "evidence/model.npz").write_bytes(b"PK")
    with pytest.raises(BundleError, match=r"evidence/model\.npz is not the file of the manifest"):
        golden(Bundle.open(damaged.path))
    pickled = tiny.write_bundle(tmp_path / "pickled", model, golden={"in.x.0": np.array([{}], dtype=object)})
    with pytest.raises(BundleError, match="holds no golden arrays: Object arrays cannot be loaded"):
        golden(pickled)
    odd = tiny.write_bundle(tmp_path / "odd", model, golden={"in.x": np.zeros(1)})
    with pytest.raises(BundleError, match=r"the array 'in\.x' is not named in\.NAME\.I or out\.NAME\.I"):
        golden(odd)
    text = tiny.write_bundle(tmp_path / "text", model, golden={"out.y.0": np.array(["a"])})
    with pytest.raises(BundleError, match=r"the array 'out\.y\.0' holds text"):
        golden(text)


def test_a_damaged_archive_is_a_bundle_error_or_harmless(tmp_path: Path) -> None:
    """Of which the manifest has the hash: whoever wrote the bundle has written it so."""
    rng = np.random.default_rng(0)
    arrays = {"in.x.0": np.ones((1, 3), np.float32), "out.y.0": np.zeros((1, 3), np.float32)}
    np.savez_compressed(tmp_path / "whole.npz", **arrays)
    whole = np.frombuffer((tmp_path / "whole.npz").read_bytes(), np.uint8)
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()}, golden=arrays)
    refused = 0
    for _ in range(600):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 2)] = rng.integers(0, 256, 2)
        (bundle.path / "evidence/model.npz").write_bytes(damaged.tobytes())
        files = {**bundle.manifest.files, "evidence/model.npz": hash_file(bundle.path / "evidence/model.npz")}
        try:
            golden(Bundle(bundle.path, replace(bundle.manifest, files=files)))
        except BundleError as error:
            assert "holds no golden arrays" in str(error)
            refused += 1
    assert refused > 300
