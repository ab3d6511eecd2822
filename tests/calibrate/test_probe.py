"""Which tensors are fetched, and that those that are not get the statistics that their values have."""

from __future__ import annotations

import numpy as np
import pytest
from nets import net, node, normal

pytest.importorskip("onnx_ir")

from edgebig.calibrate import collect
from edgebig.calibrate.probe import with_probes
from edgebig.calibrate.statistics import TensorStatistics
from edgebig.graph import Graph

NAMES = ["x", "sum", "relu", "turned", "again"]


def rectifying() -> Graph:
    nodes = [
        node("Add", "x w", "sum"),
        node("Relu", "sum", "relu"),
        node("Transpose", "relu", "turned", perm=[1, 0]),
        node("Relu", "turned", "again"),
        node("Neg", "again", "y"),
    ]
    return net(nodes, {"x": ["batch", 3]}, ["y"], {"w": normal(3, seed=1)})


def test_a_relu_is_not_fetched_where_its_input_is() -> None:
    graph = rectifying()
    _, probes = with_probes(graph, NAMES, NAMES)
    assert probes.rectified == {"relu": "sum"}
    assert probes.values == ("x", "sum", "again") and probes.derived == {"turned": ("relu",)}
    _, probes = with_probes(graph, ["relu"], ["relu"])
    assert probes.rectified == {} and probes.values == ("relu",)


@pytest.mark.parametrize("counted", [NAMES, ["x", "relu", "again"], []])
def test_statistics_are_those_of_the_values(counted: list[str]) -> None:
    """A Relu's histogram has bins of its own width: the input goes further below zero than above."""
    samples = [{"x": normal(4, 3, seed=i, scale=2.0) - np.float32(3.0)} for i in range(5)]
    found = collect(rectifying(), NAMES, [(str(i), s) for i, s in enumerate(samples)], "made", counted=counted)
    for name in NAMES:
        expected = TensorStatistics(counted=name in counted)
        for sample in samples:
            values = sample["x"] if name == "x" else sample["x"] + normal(3, seed=1)
            values = values if name in {"x", "sum"} else np.maximum(values, 0)
            expected.update(float(values.min()), float(values.max()), values)
        kept = found.statistics[name]
        assert (kept.samples, kept.smallest, kept.largest, kept.sums) == (
            expected.samples,
            expected.smallest,
            expected.largest,
            expected.sums,
        )
        assert (kept.histogram is None) == (expected.histogram is None) == (name not in counted)
        if kept.histogram is not None and expected.histogram is not None:
            assert kept.histogram.exponent == expected.histogram.exponent
            np.testing.assert_array_equal(kept.histogram.counts, expected.histogram.counts)
