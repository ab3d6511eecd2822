"""check_export: an exported file must compute what the original does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from textnets import normal, run

from edgebig.errors import ExportMismatch, GraphError
from edgebig.source.source import check_export


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(tiny.mlp(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_equal_outputs_give_a_note_with_the_distance(path: Path) -> None:
    feeds = {"x": normal(3, 8)}
    expected = run(path, feeds)
    assert check_export("model", path, feeds, expected, 1e-4).startswith(
        "model: 1 outputs equal the original's within "
    )
    largest = np.abs(expected["y"]).max()
    moved = {"y": expected["y"] + np.float32(5e-4) * largest}
    assert "within 5.0e-04" in check_export("model", path, feeds, moved, 1e-3)


def test_a_difference_beyond_the_tolerance_stops(path: Path) -> None:
    feeds = {"x": normal(3, 8)}
    expected = run(path, feeds)
    row, column = np.unravel_index(np.abs(expected["y"]).argmax(), expected["y"].shape)
    expected["y"][row, column] *= 2
    with pytest.raises(ExportMismatch, match=r"the output 'y' differs from the original by 0\.5 .*allowed are 0\.001"):
        check_export("model", path, feeds, expected, 1e-3)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_number_that_is_none_stops(path: Path, odd: float) -> None:
    feeds = {"x": normal(3, 8)}
    expected = run(path, feeds)
    expected["y"][0, 0] = odd
    with pytest.raises(ExportMismatch, match="differs from the original"):
        check_export("model", path, feeds, expected, 1e-3)


def test_another_shape_and_no_common_output_stop(path: Path) -> None:
    feeds = {"x": normal(3, 8)}
    with pytest.raises(ExportMismatch, match=r"'y' has shape \(3, 4\), the original \(4, 3\): .*control flow"):
        check_export("model", path, feeds, {"y": np.zeros((4, 3), np.float32)}, 1e-3)
    with pytest.raises(ExportMismatch, match="no output could be compared: y against logits"):
        check_export("model", path, feeds, {"logits": np.zeros((3, 4), np.float32)}, 1e-3)
    with pytest.raises(GraphError, match="ONNX Runtime failed"):
        check_export("model", path, {}, run(path, feeds), 1e-3)
