"""The matrix of models that build: a real row, its resumption, and a process that dies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorrt_rtx_bindings")
pytest.importorskip("optimum.exporters.onnx")

from benchmarks.build import matrix, matrix_models
from benchmarks.common import ROOT

SCRIPT = ROOT / "benchmarks" / "build" / "matrix.py"


def run(out: Path, *options: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--work", str(out.parent / "work"), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found, done.stderr


def test_a_row_and_its_resumption(tmp_path: Path) -> None:
    out = tmp_path / "matrix.json"
    asked = ("--only", "vit", "--precisions", "fp16", "--capabilities", "8.0,8.9")
    found, said = run(out, *asked)
    assert found["totals"]["edgebig"] == {"cells": 2, "tried": 2, "models": 1, "models tried": 1}
    assert found["totals"]["bare"] == {"cells": 0, "tried": 2, "models": 0, "models tried": 1}
    assert "vit, edgebig, fp16" in said
    ours, theirs = [[c for c in found["cells"] if c["side"] == side] for side in ("edgebig", "bare")]
    assert all(c["found"]["cosines"]["model"] > 0.999 for c in ours)
    assert all("kOPT values for profile 0 violate shape constraints" in c["reason"] for c in theirs)
    again, said = run(out, *asked, "--resume")
    assert said == "" and again["cells"] == found["cells"]


def test_a_process_that_dies_is_a_row(tmp_path: Path) -> None:
    model = matrix_models.Model("not among the models", "file", "")
    (cell,) = matrix._try(model, "edgebig", "fp16", ["8.9"], tmp_path, apart=False)
    assert cell.key == ("not among the models", "edgebig", "fp16", "8.9")
    assert cell.reason.startswith("the process ended with 1: ") and "StopIteration" in cell.reason


def test_what_is_tried() -> None:
    tried = matrix._attempts(["fp16", "fp8"], ["8.0", "8.9", "12.0"])
    assert tried == [
        ("edgebig", "fp16", ["8.0", "8.9", "12.0"]),
        ("edgebig", "fp8", ["8.9", "12.0"]),
        ("bare", "as it is", ["8.0", "8.9", "12.0"]),
    ]
    names = [model.name for model in matrix_models.MODELS]
    assert len(set(names)) == len(names) == 31


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [
        matrix.Cell("m", "edgebig", "fp16", "8.0", "", {"cosines": {"a": 0.99995, "b": 0.5}}),
        matrix.Cell("m", "edgebig", "fp16", "8.9", "it fell"),
        matrix.Cell("m", "bare", "as it is", "8.0", "no"),
        matrix.Cell("m", "bare", "as it is", "8.9", "no"),
    ]
    matrix.report(cells, {"n": "there is none"}, as_json=False)
    printed = capsys.readouterr().out
    assert "| m | not 8.9, cosine 0.5000 |  |  | **none** |" in printed
    assert "edgebig: 1 of 2 cells, 0 of 1 models" in printed and "bare: 0 of 2 cells, 0 of 1 models" in printed
    assert "- bare, m, as it is, 8.0, 8.9: no" in printed and "Left out: n: there is none" in printed
