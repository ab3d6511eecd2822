"""State goes from sample to sample of one recording, whatever way the recordings are laid out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx_ir")

from edgebig.calibrate.data.samples import Preparers, open_samples
from edgebig.calibrate.feedback import RecurrentState
from edgebig.spec import TensorSpec

X = TensorSpec("x", "float32", ("batch", 1))
H = TensorSpec("h", "float32", (1, "batch", 1))


def sums(path: Path) -> dict[str, float]:
    """The last running sum of ``x`` in each place, carried as a model's state is."""
    feedback = RecurrentState({"h": "hn"}, (X, H))
    found = {}
    for where, sample in open_samples(path, (X, H), 100, Preparers(), carried=feedback.carried):
        given = feedback.begin(where, sample)
        assert given["h"].shape == (1, 1, 1)
        feedback.follow(given, {"hn": given["h"] + given["x"]})
        found[where] = float(given["h"][0, 0, 0] + given["x"][0, 0])
    return found


def test_streams_side_by_side_keep_their_own_state(tmp_path: Path) -> None:
    steps = np.array([[[1], [10]], [[2], [20]], [[3], [30]]], np.float32)  # [step, stream, 1]
    np.savez(tmp_path / "both.npz", x=steps)
    found = sums(tmp_path / "both.npz")
    assert found["both.npz[2] row 0"] == 6 and found["both.npz[2] row 1"] == 60


def test_each_file_begins_with_zeros(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "a.npz", x=np.array([[1], [2]], np.float32))
    assert sums(tmp_path) == {"one/a.npz[0]": 1, "one/a.npz[1]": 3, "two/a.npz[0]": 1, "two/a.npz[1]": 3}
