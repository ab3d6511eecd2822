"""The whole flow for torch modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import Sample, normal

import edgebig

pytest.importorskip("tensorrt_rtx_bindings")


def rows(count: int, *shape: int, name: str = "x", seed: int = 0) -> list[Sample]:
    random = np.random.default_rng(seed)
    return [{name: random.standard_normal((1, *shape)).astype(np.float32)} for _ in range(count)]


torch = pytest.importorskip("torch")


class Picture(torch.nn.Module):
    """A small CNN; ``image`` is batch x 3 x 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(8, 4),
        )

    def forward(self, image: Any) -> Any:
        return self.layers(image)


class Listener(torch.nn.Module):
    """An LSTM that gives two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = torch.nn.LSTM(8, 16, batch_first=True), torch.nn.Linear(16, 3)

    def forward(self, sound: Any) -> Any:
        states, (hidden, _) = self.lstm(sound)
        return self.head(states[:, -1]), hidden


class Difference(torch.nn.Module):
    """Two inputs that must not be mixed up."""

    def forward(self, left: Any, right: Any) -> Any:
        return left - 2 * right


EXAMPLES: list[tuple[type, Any, dict[str, tuple[int, ...]]]] = [
    (Picture, lambda: (torch.randn(2, 3, 16, 16),), {"image": (5, 3, 16, 16)}),
    (Picture, lambda: {"image": torch.randn(1, 3, 16, 16)}, {"image": (3, 3, 16, 16)}),
    (Listener, lambda: (np.ones((2, 6, 8), np.float32),), {"sound": (4, 6, 8)}),
    (Difference, lambda: (torch.ones(2, 3), torch.ones(2, 3)), {"left": (4, 3), "right": (4, 3)}),
    (Difference, lambda: {"right": torch.ones(2, 3), "left": torch.ones(2, 3)}, {"left": (1, 3), "right": (1, 3)}),
]


@pytest.mark.parametrize(("kind", "examples", "shapes"), EXAMPLES)
def test_a_module_gives_what_it_gave(kind: type, examples: Any, shapes: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = kind()
    bundle = edgebig.compile(module, example_inputs=examples(), target="cpu", out=tmp_path / "b")
    assert bundle.manifest.source["kind"] == "torch" and bundle.manifest.name == kind.__name__
    arrays = {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    with torch.no_grad():
        expected = module.eval()(**{k: torch.from_numpy(v) for k, v in arrays.items()})
    expected = expected if isinstance(expected, tuple) else (expected,)
    with edgebig.load(tmp_path / "b") as session:
        assert {s.name for s in session.inputs} == set(shapes)
        found = session.run(arrays)
        for spec, value in zip(session.outputs, expected, strict=True):
            np.testing.assert_allclose(found[spec.name], value.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("target", "precision"), [("cpu", "int8"), ("l4", "fp16"), ("l4", "int8"), ("a100", "int8")])
def test_a_module_in_low_precision(target: str, precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = edgebig.compile(
        Picture(),
        example_inputs=(torch.randn(2, 3, 16, 16),),
        target=target,
        precision=precision,
        calibration=rows(16, 3, 16, 16, name="image"),
        out=tmp_path / "b",
    )
    assert all(s["cosine"] > 0.99 for s in bundle.part().similarity.values())
    assert bundle.part().engines
