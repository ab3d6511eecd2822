"""``edgebig eval``: the score that torch gives, and what was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from cli_runner import Run

pytest.importorskip("torchmetrics", reason="the extra eval is not installed: pip install 'edgebig[eval]'")

import edgebig as package


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """A bundle of a network trained on scikit-learn's digits, its test set, and the accuracy that torch gives."""
    torch = pytest.importorskip("torch")
    datasets = pytest.importorskip("sklearn.datasets")
    folder = tmp_path_factory.mktemp("digits")
    pictures, labels = datasets.load_digits(return_X_y=True)
    x = torch.tensor(pictures.reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
    y = torch.tensor(labels)
    torch.manual_seed(0)
    nn: Any = torch.nn
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    train, test = slice(0, 1200), slice(1200, None)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[train]), y[train]).backward()
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        accuracy = float((model(x[test]).argmax(dim=1) == y[test]).float().mean())
    out = folder / "digits.bundle"
    package.compile(
        model,
        out=out,
        precision="int8",
        example_inputs=[x[:2]],
        calibration=[{"input": row[None].numpy()} for row in x[:140]],
        keep_original=True,
    )
    (name,) = (spec.name for spec in package.Bundle.open(out).part().inputs)
    np.savez(folder / "test.npz", **{name: x[test].numpy(), "labels": y[test].numpy()})
    return out, folder / "test.npz", accuracy


def test_the_accuracy_that_torch_gives(edgebig: Run, digits: tuple[Path, Path, float]) -> None:
    bundle, data, accuracy = digits
    assert 0.8 < accuracy < 1
    found = edgebig("eval", bundle, "--eval", data, "--json").json
    assert (found["metric"], found["against"], found["higher_is_better"]) == ("accuracy", "original", True)
    assert found["reference"]["value"] == pytest.approx(accuracy)
    assert found["score"]["items"] == 597
    assert found["score"]["interval"]["method"] == "Wilson"
    drop = found["drop"]
    assert drop["value"] == pytest.approx(accuracy - found["score"]["value"])
    assert abs(drop["value"]) <= 0.01
    assert drop["interval"]["low"] <= drop["value"] <= drop["interval"]["high"]
    assert drop["within_noise"] is (drop["interval"]["low"] <= 0 <= drop["interval"]["high"])
    shown = edgebig("eval", bundle, "--eval", data)
    assert (shown.code, shown.err) == (0, "")
    assert f"{accuracy * 100:.2f} %" in shown.out
    assert "597 items, run by onnxruntime-cpu; higher is better" in shown.out


def test_other_metrics_and_references(edgebig: Run, digits: tuple[Path, Path, float], tmp_path: Path) -> None:
    bundle, data, accuracy = digits
    few = ("--eval", data, "--samples", "50", "--json")
    cosine = edgebig("eval", bundle, *few, "--metric", "cosine").json
    assert cosine["reference"]["value"] == 1
    assert 0.99 < cosine["score"]["value"] < 1
    same = edgebig("eval", bundle, *few, "--metric", "sqnr", "--against", bundle).json
    assert (same["score"]["value"], same["drop"]["value"]) == ("Infinity", 0)
    file = tmp_path / "mine.py"
    file.write_text(
        "def errors(outputs, labels):\n    return -sum(o['output'].argmax() != n for o, n in zip(outputs, labels))\n"
    )
    output = package.Bundle.open(bundle).part().outputs[0].name
    file.write_text(file.read_text().replace("'output'", repr(output)))
    mine = edgebig("eval", bundle, "--eval", data, "--metric", f"{file}:errors", "--json").json
    assert mine["reference"]["value"] == pytest.approx(-(1 - accuracy) * 597, abs=0.01)


def test_bad_requests_are_one_line(edgebig: Run, tmp_path: Path) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.mlp()})
    np.savez(tmp_path / "plain.npz", x=np.zeros((3, 8), np.float32))
    np.savez(tmp_path / "bad.npz", x=np.zeros((3, 8), np.float32), labels=np.array([0, 1, 9]))
    for options, code, message in (
        (("--eval", tmp_path / "absent"), 17, "no such file or folder"),
        (("--eval", tmp_path / "plain.npz"), 17, "keeps no original: name one with --against"),
        (("--eval", tmp_path / "plain.npz", "--metric", "f1"), 17, "f1 needs labels"),
        (("--eval", tmp_path / "bad.npz"), 17, "bad.npz[2]: the label 9 is none of the model's 4 classes"),
        (("--eval", tmp_path / "bad.npz", "--metric", "best"), 17, "no such metric: choose one of accuracy"),
        (("--eval", tmp_path / "bad.npz", "--against", tmp_path / "absent"), 14, "is not a bundle"),
        (("--eval", tmp_path / "bad.npz", "--against", "absent.onnx"), 2, "no such file"),
        (("--eval", tmp_path / "bad.npz", "--against", "original"), 14, "does not keep the graph"),
        ((), 2, "Missing option '--eval'"),
    ):
        result = edgebig("eval", bundle.path, *options)
        assert (result.code, result.out) == (code, "")
        assert message in result.err
        assert result.err.count("\n") == 1
