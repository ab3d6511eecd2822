"""Sizes of graphs, counted by hand."""

from __future__ import annotations

import numpy as np
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


def test_shapes_are_followed_through_slices_and_expansions() -> None:
    """Positions cut from a table and a mask that is spread over rows, as exported transformers have them."""
    model = net(
        "int64[batch,length] ids",
        "float[batch,length,4] y",
        """
        size = Shape(ids)
        length = Gather(size, one)
        end = Unsqueeze(length, axis)
        cut = Slice(positions, start, end, second)
        places = Gather(table, cut)
        wide = Expand(places, three)
        words = Gather(vocabulary, ids)
        y = Add(words, wide)
        """,
        {
            "one": np.array(1),
            "axis": np.array([0]),
            "start": np.array([0]),
            "second": np.array([1]),
            "three": np.array([1, 1, 4]),
            "positions": np.arange(64).reshape(1, 64),
            "table": normal(64, 4),
            "vocabulary": normal(10, 4),
        },
    )
    found = sizes_of(graph(model), {"ids": (8, 32)})
    # the words, the places that are added to them, and the sum
    assert found["activation_bytes"] == 2 * 4 * 8 * 32 * 4 + 4 * 32 * 4


def test_a_range_as_long_as_an_input_is_counted() -> None:
    """As decoders make the positions of their masks."""
    nodes = """
        s = Shape(x)  n = Gather(s, one)  longer = Add(n, two)  r = Range(zero, longer, single)  p = Cast<to = 1>(r)
        row = Unsqueeze(p, axis)  y = MatMul(x, w)  z = Add(y, row)
    """
    weights = {
        "one": np.int64(1),
        "two": np.int64(2),
        "zero": np.int64(0),
        "single": np.int64(1),
        "axis": np.array([0]),
        "w": normal(8, 10),
    }
    model = net("float[b,8] x", "float[b,10] z", nodes, weights)
    assert sizes_of(graph(model), {"x": (512, 8)})["activation_bytes"] == 4 * (512 * (10 + 10) + 10)


def test_a_mask_of_two_ranges_is_counted() -> None:
    """ONNX's propagation of data gives up on the sum of ranges that have axes of their own, as Qwen's mask has."""
    nodes = """
        s = Shape(x)  b = Gather(s, zero)  n = Gather(s, one)
        r = Range(zero, b, one)  column = Unsqueeze(r, last)  q = Range(zero, n, one)  row = Unsqueeze(q, first)
        places = Add(column, row)  m = Cast<to = 1>(places)  y = Add(x, m)  z = Relu(y)
    """
    weights = {"zero": np.int64(0), "one": np.int64(1), "first": np.array([0]), "last": np.array([1])}
    model = net("float[b,n] x", "float[b,n] z", nodes, weights)
    places, floats = 8 * 8 * 300, 4 * 8 * 300
    assert sizes_of(graph(model), {"x": (8, 300)})["activation_bytes"] == places + 2 * floats


def test_a_shape_that_depends_on_data_leaves_the_figure_out() -> None:
    model = net("float[4] x", "int64[1,n] y", "y = NonZero(x)", {"w": normal(2, 2)})
    assert set(sizes_of(graph(model), {})) == {"weight_bytes", "nodes"}
