"""Reading golden inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

from edgebig.bundle import Bundle
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
