"""How much values take on a sample, and in which runs they are fetched."""

from __future__ import annotations

import numpy as np
from nets import net, node, samples_for

from edgebig.calibrate import collect
from edgebig.calibrate.fetch import bytes_on, too_large
from edgebig.graph import Graph
from edgebig.graph.groups import in_groups


def chain() -> Graph:
    nodes = [node("Relu", "x", "r"), node("Neg", "r", "n"), node("Abs", "n", "y")]
    return net(nodes, {"x": ["batch", 3, 8]}, ["y"])


def test_a_named_axis_has_the_samples_size() -> None:
    sample = {"x": np.zeros((2, 3, 8), np.float32)}
    assert bytes_on(chain(), ["x", "r", "y"], sample) == {"x": 0, "r": 4 * 48, "y": 4 * 48}


def test_groups_fit_and_a_single_large_tensor_has_its_own() -> None:
    sizes = {"a": 3, "b": 5, "c": 20, "d": 1}
    assert in_groups(sizes, 8) == [["a", "b"], ["c"], ["d"]]
    assert in_groups({}, 8) == [[]]
    assert too_large(sizes, 8) == {"c", "d"}


def test_the_budget_changes_no_result() -> None:
    graph = chain()
    samples = [(str(i), s) for i, s in enumerate(samples_for(graph, 5))]
    names = ["x", "r", "n", "y"]
    for counted in (names, ["r"], []):
        found = [collect(graph, names, samples, "made", counted=counted, memory=m) for m in (1 << 20, 200, 1)]
        for other in found[1:]:
            for name, kept in found[0].statistics.items():
                also = other.statistics[name]
                assert (kept.smallest, kept.largest) == (also.smallest, also.largest)
                assert kept.mean_extremes == also.mean_extremes and kept.samples == also.samples == 5
                if kept.histogram is not None and also.histogram is not None:
                    np.testing.assert_array_equal(kept.histogram.counts, also.histogram.counts)
