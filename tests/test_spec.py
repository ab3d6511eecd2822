"""TensorSpec: its text and its form in the manifest."""

from __future__ import annotations

import json

from edgebig.spec import TensorSpec


def test_text_and_staticness() -> None:
    image = TensorSpec("pixels", "float32", (1, 3, 224, 224))
    assert str(image) == "pixels: float32 1x3x224x224"
    assert image.is_static
    text = TensorSpec("ids", "int64", ("batch", None, 8))
    assert str(text) == "ids: int64 batchx?x8"
    assert not text.is_static
    assert str(TensorSpec("rate", "int64", ())) == "rate: int64 scalar"
    assert TensorSpec("rate", "int64", ()).is_static


def test_json_keeps_sizes_names_and_unnamed_axes() -> None:
    spec = TensorSpec("a/b.0", "bfloat16", ("batch", None, 8))
    assert spec.to_json() == {"name": "a/b.0", "dtype": "bfloat16", "shape": ["batch", None, 8]}
    assert TensorSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
