"""Made inputs fit the graph, stay inside the tables they index, and are the same on every call."""

from __future__ import annotations

import numpy as np
from nets import net, node, normal

from edgebig.verify import made_inputs


def embeddings():
    return net(
        [
            node("Gather", "table ids", "rows"),
            node("Cast", "types", "t32", to=6),
            node("Gather", "small t32", "kinds"),
            node("Add", "rows kinds", "sum"),
            node("Where", "keep sum zero", "kept"),
            node("Mul", "kept scale", "y"),
        ],
        {"ids": ["batch", "seq"], "types": ["batch", "seq"], "keep": ["batch", "seq", 1], "scale": [4]},
        ["y"],
        {"table": normal(30, 4), "small": normal(2, 4), "zero": np.array(0, np.float32)},
        types={"ids": "int64", "types": "int64", "keep": "bool"},
    )


def test_inputs_fit_and_indices_stay_inside_their_tables() -> None:
    shapes = {"ids": (2, 50), "types": (2, 50), "keep": (2, 50, 1)}
    made = made_inputs(embeddings(), shapes, 3)
    assert len(made) == 3
    for sample in made:
        assert {k: (v.dtype.name, v.shape) for k, v in sample.items()} == {
            "ids": ("int64", (2, 50)),
            "types": ("int64", (2, 50)),
            "keep": ("bool", (2, 50, 1)),
            "scale": ("float32", (4,)),
        }
        assert sample["ids"].min() >= 0 and 20 < sample["ids"].max() < 30
        assert set(np.unique(sample["types"])) == {0, 1} and sample["keep"].all()
    assert not np.array_equal(made[0]["scale"], made[1]["scale"])


def test_they_are_the_same_on_every_call_and_dynamic_axes_default_to_one() -> None:
    first, second = made_inputs(embeddings(), {}, 1)[0], made_inputs(embeddings(), {}, 1)[0]
    assert first["ids"].shape == (1, 1)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_masks_are_ones() -> None:
    graph = net([node("Mul", "x attention_mask", "y")], {"x": [2], "attention_mask": [2]}, ["y"])
    assert made_inputs(graph, {}, 1)[0]["attention_mask"].tolist() == [1, 1]
