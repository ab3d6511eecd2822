"""Sizes of graphs, counted by hand."""

from __future__ import annotations

import onnx_ir as ir
import tiny
from textnets import net, normal

from edgebig.graph import Graph
from edgebig.steps.sizes import sizes_of


def graph(model) -> Graph:  # type: ignore[no-untyped-def]
    return Graph(ir.from_proto(model))


def test_an_mlp_at_its_largest_batch() -> None:
    found = sizes_of(graph(tiny.mlp()), {"x": (16, 8)})
    # the hidden layer before and after its Relu lives at once
    assert found == {
        "weight_bytes": 4 * (8 * 16 + 16 + 16 * 4 + 4),
        "nodes": 3,
        "activation_bytes": 4 * 16 * (16 + 16),
    }


def test_what_is_read_again_stays_alive() -> None:
    model = net("float[4,8] x", "float[4,8] y", "a = Relu(x) b = Relu(a) y = Add(b, x)", {})
    assert sizes_of(graph(model), {})["activation_bytes"] == 3 * 4 * 8 * 4


def test_a_shape_that_depends_on_data_leaves_the_figure_out() -> None:
    model = net("float[4] x", "int64[1,n] y", "y = NonZero(x)", {"w": normal(2, 2)})
    assert set(sizes_of(graph(model), {})) == {"weight_bytes", "nodes"}
