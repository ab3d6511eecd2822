"""export_module: a torch module becomes a graph that equals it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textnets import normal, run

from edgebig.errors import ExportMismatch, SourceError
from edgebig.source import export_module

torch = pytest.importorskip("torch")


class Small(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A convolution with BatchNorm and dropout, then a linear layer; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(4, 5)

    def forward(self, picture: Any, scale: Any) -> Any:
        features = self.drop(torch.relu(self.norm(self.conv(picture)))).mean((2, 3))
        return {"logits": self.head(features) * scale, "nested": (features,)}


@pytest.mark.parametrize("named", [True, False])
def test_a_module_with_two_inputs_and_nested_outputs(tmp_path: Path, named: bool) -> None:
    module = Small().train()
    values = {"picture": normal(2, 3, 8, 8), "scale": normal(2, 1)}
    examples: Any = values if named else list(values.values())
    source = export_module(module, examples, tmp_path, opset=18, tolerance=1e-4, dynamic=True)
    assert module.training  # as its owner left it
    module.eval()
    assert (source.kind, source.name) == ("torch", "Small")
    (part,) = source.parts
    assert [s.name for s in part.graph.inputs] == ["picture", "scale"]
    assert part.graph.inputs[0].shape[1:] == (3, 8, 8)
    assert isinstance(part.graph.inputs[0].shape[0], str)
    assert part.graph.opset >= 18
    other = {"picture": normal(5, 3, 8, 8, seed=1), "scale": normal(5, 1, seed=2)}
    with torch.inference_mode():
        right = module(**{k: torch.as_tensor(v) for k, v in other.items()})
    found = list(run(part.original, other).values())
    np.testing.assert_allclose(found[0], right["logits"].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], right["nested"][0].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(part.examples[0]["scale"], values["scale"])


def test_without_dynamic_axes_every_shape_is_fixed(tmp_path: Path) -> None:
    source = export_module(torch.nn.Linear(3, 2), [normal(4, 3)], tmp_path, 18, 1e-4, dynamic=False)
    assert source.parts[0].graph.inputs[0].shape == (4, 3)
    assert source.parts[0].graph.outputs[0].shape == (4, 2)


class Branching(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Its output depends on a value: an exporter cannot follow that."""

    def forward(self, x: Any) -> Any:
        return x + 1 if float(x.sum()) > 0 else x - 1


class Random(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Gives other numbers at every call."""

    def forward(self, x: Any) -> Any:
        return x + torch.rand_like(x)


def test_what_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"torch\.onnx\.export failed on Branching: ") as caught:
        export_module(Branching(), [normal(2, 3)], tmp_path, 18, 1e-4, dynamic=False)
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match=r"torch\.onnx\.export failed on Linear: "):
        export_module(torch.nn.Linear(3, 2), [normal(2, 4)], tmp_path, 18, 1e-4, dynamic=False)


def test_a_module_that_differs_from_its_export_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ExportMismatch, match="export of Random: the output .* differs from the original by"):
        export_module(Random(), [normal(2, 3)], tmp_path, 18, 1e-4, dynamic=False)
