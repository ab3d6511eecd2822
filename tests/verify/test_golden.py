"""What is saved as golden is what the runtime reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgebig.verify import Golden, save_golden


def test_arrays_by_side_name_and_number(tmp_path: Path) -> None:
    inputs = [
        {"x.1/a": np.arange(3, dtype=np.float32), "ids": np.array([[1]])},
        {"x.1/a": np.zeros(3, np.float32), "ids": np.array([[2]])},
    ]
    outputs = [{"y": np.array(True)}, {"y": np.array(False)}]
    save_golden(Golden(inputs, outputs, "made"), tmp_path / "model.golden")
    with np.load(tmp_path / "model.golden", allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in saved.files if name != "allow_pickle"}
    assert sorted(arrays) == ["in.ids.0", "in.ids.1", "in.x.1/a.0", "in.x.1/a.1", "out.y.0", "out.y.1"]
    assert arrays["in.x.1/a.0"].tolist() == [0, 1, 2] and arrays["in.x.1/a.0"].dtype == np.float32
    assert arrays["in.ids.1"].dtype == np.int64 and arrays["out.y.0"].shape == () and bool(arrays["out.y.0"])
