"""Top-1 that INT8 costs a CNN, an LSTM and a small transformer, trained here on scikit-learn's digits.

    python benchmarks/accuracy/digits.py [--json] [--quick]

Two thirds of the 1797 pictures of 8 x 8 train, every third one is held out, which is done three times, so that each
picture is held out once and one changed answer is 0.06 points. 128 of the training pictures calibrate. Each model is
compiled by edgebig.compile from its torch module for the CPU, and for an L4 whose portable graph ONNX Runtime runs
without optimizations. Seeds are fixed; --quick trains a tenth as long, once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import edgebig
from benchmarks.accuracy.figures import Figure, report, say
from benchmarks.common import machine
from edgebig.graph import Executor

Array = np.ndarray[Any, Any]

EPOCHS = 25
FOLDS = 3
SIDES = (("cpu", "fp32"), ("cpu", "int8"), ("l4", "fp16"), ("l4", "int8"))
_CALIBRATION = 128
_SEED = 0
_BATCH = 32
_LIMIT = "<= 0.1"
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "scikit-learn", "torch")


class Cnn(nn.Module):
    """Three convolutions with BatchNorm, a residual addition, mean, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32))
        self.third = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        x = self.first(pictures)
        x = torch.relu(x + self.second(x))
        return self.head(self.third(x).mean(dim=(2, 3)))


class Lstm(nn.Module):
    """Reads a picture row by row; a linear layer on the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 64, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        states, _ = self.rnn(pictures.squeeze(1))
        return self.head(states[:, -1])


class Transformer(nn.Module):
    """Rows as tokens: two layers of two heads, LayerNorm first, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 64)
        self.place = nn.Parameter(torch.randn(1, 8, 64) * 0.02)
        self.layers = nn.ModuleList([_Layer() for _ in range(2)])
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 10)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        x = self.embed(pictures.squeeze(1)) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(dim=1))


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(64), nn.LayerNorm(64)])
        self.inside, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (2, 32)).transpose(1, 2) for part in self.inside(self.norms[0](x)).chunk(3, -1))
        weights = torch.softmax(q @ k.transpose(-1, -2) * 32**-0.5, dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


MODELS: dict[str, Callable[[], nn.Module]] = {"CNN": Cnn, "LSTM": Lstm, "transformer": Transformer}


def pictures(fold: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Training and held-out pictures, float32 [n, 1, 8, 8] from 0 to 1, each with their classes; fold 0 to 2."""
    loaded = load_digits()
    images = (loaded.images / 16).astype(np.float32)[:, None]
    held_out = np.arange(len(images)) % FOLDS == fold
    return (images[~held_out], loaded.target[~held_out]), (images[held_out], loaded.target[held_out])


def trained(name: str, data: tuple[Array, Array], epochs: int) -> nn.Module:
    """The model after so many passes over the data, with fixed seeds."""
    torch.manual_seed(_SEED)
    model = MODELS[name]()
    images, classes = (torch.from_numpy(a) for a in data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * -(-len(images) // _BATCH))
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(_BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), classes[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def answers(bundle: edgebig.Bundle, images: Array) -> Array:
    """The class that a bundle gives each picture, one at a time: int64 [n]."""
    path = bundle.path / bundle.part().graph
    is_cpu = bundle.manifest.target["name"] == "cpu"
    with Executor(path, "all" if is_cpu else "off") as executor:
        name = bundle.part().inputs[0].name
        found = [executor.run({name: image[None]})[executor.output_names[0]].argmax() for image in images]
    return np.array(found)


def measure(name: str, work: Path, epochs: int, folds: int) -> list[Figure]:
    """Top-1 of the modules, and what each precision loses for each target, over all folds."""
    count, right = 0, 0
    lost = dict.fromkeys(SIDES, 0)
    changed = dict.fromkeys(SIDES, 0)
    for fold in range(folds):
        training, (images, classes) = pictures(fold)
        say(f"training the {name}, fold {fold + 1} of {folds}")
        model = trained(name, training, epochs)
        with torch.inference_mode():
            expected = model(torch.from_numpy(images)).argmax(1).numpy()
        count, right = count + len(images), right + int((expected == classes).sum())
        for side in SIDES:
            found = answers(compiled(model, side, training[0], work / "bundle"), images)
            lost[side] += int((expected == classes).sum()) - int((found == classes).sum())
            changed[side] += int((found != expected).sum())
    what = f"{name}, {count} held-out digits: top-1 lost, points (FP32: {100 * right / count:.2f} %)"
    return [
        Figure(what, f"edgebig, {side[1]}, {side[0]}", 100 * lost[side] / count, _LIMIT, 3, f"{changed[side]} changed")
        for side in SIDES
    ]


def compiled(model: nn.Module, side: tuple[str, str], training: Array, out: Path) -> edgebig.Bundle:
    """The model's bundle for a target and a precision."""
    target, precision = side
    return edgebig.compile(
        model,
        target=target,
        precision=precision,
        example_inputs=(torch.from_numpy(training[:2]),),
        calibration=[{"pictures": image[None]} for image in training[:_CALIBRATION]],
        out=out,
        force=True,
    )


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="trains a tenth as long: shows that all works")
    asked = parser.parse_args()
    before = machine()
    epochs, folds = (EPOCHS // 10, 1) if asked.quick else (EPOCHS, FOLDS)
    with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
        figures = [figure for name in MODELS for figure in measure(name, Path(folder), epochs, folds)]
    report("Digits", figures, {**before, "epochs": str(epochs), "folds": str(folds)}, _PACKAGES, as_json=asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
